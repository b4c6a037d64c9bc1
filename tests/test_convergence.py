"""The scripts that compare trainings: what a row is, and what becomes of results. The trainings are not run here."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config

sys.path.append(str(ROOT / 'benchmarks'))
import budget
import convergence
import parts
import pretrained
import raccoon


@pytest.mark.parametrize('name', convergence.ROWS)
def test_a_row_has_the_parts_that_it_says(name):
    config = convergence.row_config('shapes', name)
    head = config.model.bbox_head
    has = {
        'groups': any(queries.type.endswith('QueryGroups') for queries in head.training_queries),
        'denoising': any(queries.type.endswith('DenoisingQueries') for queries in head.training_queries),
        'dense': head.dense_supervision is not None,
        'class weight': head.loss.loss_cls.loss_weight > 1,
        'Muon': config.optim_wrapper.optimizer.type == 'mmdet_detr.Muon',
    }
    removed, options = convergence.ROWS[name]
    assert has == {part: part not in removed for part in convergence.REMOVE}
    assert bool(options) == (name in convergence.TRIED)
    MODELS.build(config.model)


def test_without_class_weight_the_parts_keep_theirs():
    """The product with the head's own weight stays."""
    before, after = (convergence.row_config('shapes', name).model.bbox_head for name in ('all', 'all but class weight'))
    for part in (lambda head: head.training_queries[1], lambda head: head.dense_supervision):
        assert part(after).cls_weight == pytest.approx(1.5 * part(before).cls_weight)


def test_held_out_images_are_those_left_out_of_training(tmp_path):
    images = [{'id': number, 'file_name': f'{number}.jpg'} for number in range(10)]
    boxes = [{'id': number, 'image_id': number} for number in range(10)]
    (tmp_path / 'train.json').write_text(json.dumps({'images': images, 'annotations': boxes, 'categories': []}))
    dataset = {'data_root': str(tmp_path), 'ann_file': 'train.json'}
    loaders = {f'{name}_dataloader': {'dataset': dict(dataset)} for name in ('train', 'val')}
    config = Config({**loaders, 'val_evaluator': {}})
    convergence.held_out(config, tmp_path / 'split')
    kept, left = (
        json.loads(Path(loader.dataset.ann_file).read_text())
        for loader in (config.train_dataloader, config.val_dataloader)
    )
    assert [image['id'] for image in left['images']] == [box['image_id'] for box in left['annotations']] == [0, 4, 8]
    assert [image['id'] for image in kept['images']] == [1, 2, 3, 5, 6, 7, 9]
    assert config.val_evaluator.ann_file == config.val_dataloader.dataset.ann_file


def test_schedule_and_end_follow_the_clock(monkeypatch):
    """Slow steps: fewer of them, a schedule that still ends with the budget, and validation that costs nothing."""
    now = 0.0
    monkeypatch.setattr(budget.time, 'process_time', lambda: now)
    shown, scheduled = [], []

    def validate() -> dict[str, float]:
        nonlocal now
        now += 1000.0
        return {f'coco/bbox_mAP{which}': 0.5 for which in ('', '_50', '_75')}

    runner = SimpleNamespace(
        iter=0,
        param_schedulers=[SimpleNamespace(step=lambda: scheduled.append(None))],
        val_loop=SimpleNamespace(run=validate),
        train_loop=SimpleNamespace(stop_training=False),
    )
    hook = budget.BudgetHook(100.0, lambda step, steps: shown.append(step / steps))
    hook.before_train(runner)
    for seconds in (10.0, 30.0, 10.0, 10.0, 25.0, 20.0):
        assert not runner.train_loop.stop_training
        now += seconds
        hook.after_train_iter(runner)
        assert len(scheduled) == hook.step
        runner.iter += 1
    assert shown == pytest.approx([0.1, 0.4, 0.5, 0.6, 0.85, 1.0])
    assert runner.train_loop.stop_training
    assert len(scheduled) == budget.STEPS
    assert [(point['iterations'], point['seconds']) for point in hook.points][-1] == (6, 105.0)


def run_of(name: str, seed: int, ap: float) -> dict:
    curve = [{'iterations': 10 * i, 'seconds': 30.0 * i, 'AP': ap * i / 2, 'AP50': ap, 'AP75': ap} for i in (1, 2)]
    return {'detector': name, 'seed': seed, 'parameters': 10**6, 'curve': curve, 'command': 'python x.py'}


def test_tables_and_pictures(tmp_path):
    origin = {'machine': 'a machine', 'minutes': 1.0, 'data': 'shapes'}
    runs = [run_of('all', 0, 0.25), run_of('all', 1, 0.75)]
    table = convergence.markdown({**origin, 'runs': runs})
    assert '| all | 0.500 (0.250 to 0.750) |' in table
    assert '| 0.250 (0.125 to 0.375) | 20 (20 to 20) | 3000 (3000 to 3000) |' in table
    assert table.count('`python x.py`') == 1
    convergence.draw({**origin, 'runs': runs}, tmp_path / 'bars.png')
    runs = [run_of(budget.OURS, 0, 0.5), run_of(budget.FASTER, 0, 0.4)]
    table = budget.markdown({**origin, 'runs': runs})
    assert '| mmdet_detr | 1 | 0.500 | 0.500 | 0.500 | 1.0 | 20 | 1.00 M |' in table
    budget.draw({**origin, 'runs': runs}, tmp_path / 'curves.png')
    assert (tmp_path / 'bars.png').stat().st_size > 1000
    assert (tmp_path / 'curves.png').stat().st_size > 1000


def test_rows_of_time_and_memory_build(tmp_path):
    names = [path.stem for path in parts.write_configs(tmp_path)]
    assert names == list(parts.ROWS)
    heads = {name: Config.fromfile(tmp_path / f'{name}.py').model.bbox_head for name in names}
    assert [len(head.get('training_queries', [])) for head in heads.values()] == [0, 1, 1, 0, 2, 0, 2]
    assert [bool(head.get('dense_supervision')) for head in heads.values()] == [
        False,
        False,
        False,
        True,
        True,
        False,
        True,
    ]


def test_voc_becomes_coco(tmp_path, monkeypatch):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'images').mkdir()
    for number in range(10):
        (tmp_path / 'annotations' / f'{number}.xml').write_text(
            f'<annotation><filename>{number}.jpg</filename><size><width>60</width><height>40</height></size>'
            '<object><name>raccoon</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>16</ymax></bndbox>'
            '</object></annotation>'
        )
    out = tmp_path / 'out'
    monkeypatch.setattr(sys, 'argv', ['raccoon.py', str(tmp_path), '--out', str(out)])
    raccoon.main()
    train, val = (json.loads((out / f'{split}.json').read_text()) for split in ('train', 'val'))
    assert (len(train['images']), len(val['images'])) == (8, 2)
    assert {image['file_name'] for document in (train, val) for image in document['images']} == {
        f'{n}.jpg' for n in range(10)
    }
    assert val['annotations'][0] == {
        'id': 1, 'image_id': 0, 'category_id': 1, 'bbox': [5.0, 6.0, 20.0, 10.0], 'area': 200.0, 'iscrowd': 0,
    }  # fmt: skip
    assert (out / 'images').resolve() == (tmp_path / 'images').resolve()
    monkeypatch.setattr(sys, 'argv', ['raccoon.py', str(out)])
    with pytest.raises(SystemExit, match='no annotations'):
        raccoon.main()


NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def names_of_mobilenet():
    """Torchvision's names, whose entries come in the order of mmdet's."""
    for index in range(19):
        if index in (0, 18):
            parts = [f'{index}.{i}' for i in (0, 1)]
        else:
            parts = [f'{index}.conv.{3 * part + i}' for part in range(2 if index == 1 else 3) for i in (0, 1)]
        for part in parts:
            yield from (f'features.{part}.{name}' for name in (NORM if int(part[-1]) % 3 else ('weight',)))


def names_of_efficientnet():
    for index in range(-1, 16):
        if index < 0:
            layers = ('_conv_stem', '_bn0')
        else:
            layers = ('_expand_conv', '_bn0', '_depthwise_conv', '_bn1', '_project_conv', '_bn2')[2 * (index == 0) :]
        block = '' if index < 0 else f'_blocks.{index}.'
        for layer in layers:
            yield from (f'{block}{layer}.{name}' for name in (NORM if '_bn' in layer else ('weight',)))


@pytest.mark.parametrize(('names', 'number'), [(names_of_mobilenet, 312), (names_of_efficientnet, 288)])
def test_weights_of_imagenet_get_their_places(names, number, tmp_path):
    theirs = dict.fromkeys(names(), 0)
    assert len(theirs) == number
    backbone = pretrained.BACKBONES[next(iter(theirs))]
    torch.save({}, tmp_path / 'weights.pth')
    config = pretrained.config_of('bccd', 288, backbone, tmp_path / 'weights.pth')
    assert [t.sizes for t in config.train_dataloader.dataset.pipeline if 'sizes' in t] == [[288]]
    config.model.backbone.init_cfg = None
    built = MODELS.build(config.model).backbone
    names = list(built.state_dict())
    assert list(backbone.renamed(theirs))[: len(names)] == names
    assert [level.shape[1] for level in built(torch.zeros(1, 3, 64, 64))] == [backbone.channels]
    assert [level.shape[2] for level in built(torch.zeros(1, 3, 64, 64))] == [4]
