"""Configs for one's own data from those for other data."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from own_pictures import write_coco, write_images

from mmdet_detr.errors import CheckpointError, ConfigError
from mmdet_detr.own_data import OwnData, read_folder
from mmdet_detr.own_data.base import DEFAULT, find_base, load_base, published_weights, require_weights
from mmdet_detr.own_data.config_file import fit_config, write_config

TINY = 'configs/detr/detr_tiny_shapes.py'


@pytest.fixture
def data(tmp_path) -> OwnData:
    write_images(tmp_path / 'mine')
    write_coco(tmp_path / 'mine' / 'train.json', 'abc')
    write_coco(tmp_path / 'mine' / 'val.json', 'de')
    return read_folder(tmp_path / 'mine')


def of_size(images: int, objects: int = 1) -> OwnData:
    """Data of that many images, of which the first has that many objects."""
    entries = [{'image_id': 1, 'category_id': 1}] * objects
    train = {'images': [{'id': i} for i in range(1, images + 1)], 'annotations': entries}
    return OwnData(Path('/mine'), 'COCO', ('cat', 'dog'), {'train': train, 'val': {'images': [], 'annotations': []}})


def fit(base: str, data: OwnData, **options) -> tuple[Config, list[str]]:
    config = load_base(find_base(base), data.classes)
    return fit_config(config, data, Path('/run/annotations'), Path('/mine'), Path('/run'), device='cpu', **options)


def parts(node, key: str) -> list:
    """All values of a key in a config."""
    found = [node[key]] if isinstance(node, dict) and key in node else []
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return found + [value for one in inner for value in parts(one, key)]


def test_the_default_base():
    config, notes = fit(DEFAULT, of_size(200), weights='weights.pth')
    assert config.load_from == 'weights.pth'
    assert config.work_dir == '/run'
    assert config.model.backbone.init_cfg is None
    assert config.model.bbox_head.num_classes == 2
    assert parts(config.model, 'num_queries') == [100] * 2
    assert [one.type for one in config.model.bbox_head.training_queries] == [
        'mmdet_detr.QueryGroups',
        'mmdet_detr.DenoisingQueries',
    ]
    for split, loader in (('train', 'train'), ('val', 'val'), ('val', 'test')):
        dataset = config[f'{loader}_dataloader'].dataset
        assert dataset.type == 'mmdet_detr.RobustCocoDataset'
        assert dataset.ann_file == f'/run/annotations/{split}.json'
        assert dataset.data_prefix == {'img': '/mine/'}
        assert dataset.metainfo.classes == ('cat', 'dog')
        assert dataset.get('test_mode', False) == (loader != 'train')
    assert config.val_evaluator.ann_file == config.test_evaluator.ann_file == '/run/annotations/val.json'
    assert config.train_dataloader.batch_size == 2
    assert config.auto_scale_lr == {'enable': True, 'base_batch_size': 16}
    assert config.train_cfg == {'type': 'EpochBasedTrainLoop', 'max_epochs': 50, 'val_interval': 2}
    assert config.param_scheduler[0].milestones == [40]
    assert config.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'
    assert notes == [
        'images a step: 2, and 0.125 times the learning rate of detr_r50_finetune',
        'epochs: 50, steps in each: 100',
    ]
    assert 'json' not in config
    assert 'max_epochs' not in config


def test_few_images_get_small_batches_and_more_epochs():
    config, _ = fit(DEFAULT, of_size(19))
    assert config.train_dataloader.batch_size == 1
    assert config.train_cfg.max_epochs == 53  # 1000 steps
    assert config.param_scheduler[0].milestones == [42]
    assert config.param_scheduler[0].end == 53
    config, _ = fit(DEFAULT, of_size(19), epochs=20, batch=100)
    assert config.train_dataloader.batch_size == 19  # drop_last would leave nothing of an incomplete batch
    assert config.param_scheduler[0].milestones == [16]


def test_a_test_split():
    given = of_size(20)
    given.documents['test'] = given.documents['val']
    config, _ = fit(DEFAULT, given)
    assert config.val_evaluator.ann_file == '/run/annotations/val.json'
    assert config.test_dataloader.dataset.ann_file == config.test_evaluator.ann_file == '/run/annotations/test.json'


@pytest.mark.parametrize(('objects', 'queries'), [(8, 10), (9, 20), (30, 50)])
def test_queries_follow_the_largest_number_of_objects(objects, queries):
    config, notes = fit('detr_r18_raccoon', of_size(40, objects))
    assert parts(config.model, 'num_queries') == [queries] * 2  # of the neck and of the groups
    assert config.model.test_cfg.max_per_img == queries
    assert any('queries' in note for note in notes) == (queries > 10)
    config, _ = fit(DEFAULT, of_size(40, 200))
    assert parts(config.model, 'num_queries') == [300] * 2


def test_a_schedule_in_iterations_becomes_one_in_epochs():
    """The learning rate is that of the base at every hundredth of the training."""
    base = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_r18_bccd.py')
    config, _ = fit('detr_r18_bccd', of_size(200))
    assert config.train_cfg.max_epochs == 60  # 3000 iterations of 4 images
    assert parts(config.train_dataloader.sampler, 'type')[-1] == 'DefaultSampler'
    ours = learning_rates(config.param_scheduler, 3000, 50)
    theirs = learning_rates(base.param_scheduler, 3000, 50)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    config, _ = fit('detr_r18_bccd', of_size(8))
    assert config.train_cfg.max_epochs == 375  # 3000 steps of an image each
    config, _ = fit('detr_r18_bccd', of_size(200), epochs=6)
    shorter = learning_rates(config.param_scheduler, 300, 50)
    np.testing.assert_allclose(shorter[5::10], np.array(theirs)[50::100], rtol=0.1, atol=2e-6)


class Loop(BaseLoop):
    def run(self) -> None: ...


def learning_rates(schedulers: list, iterations: int, epoch_length: int) -> list[float]:
    runner = Runner.__new__(Runner)
    runner.logger = logging.getLogger('unused')
    runner._train_loop = Loop(runner, [0] * epoch_length)
    runner._train_loop.max_epochs, runner._train_loop.max_iters = iterations // epoch_length, iterations
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    built = Runner._build_param_scheduler(runner, [dict(one) for one in schedulers], OptimWrapper(optimizer))
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch:
                scheduler.step()
    return rates


def test_a_detector_of_mmdet():
    config, _ = fit('configs/faster_rcnn/faster-rcnn_r50_fpn_3x_coco.py', of_size(100, 120), epochs=12, batch=1)
    assert parts(config.model, 'num_classes') == [2]
    assert config.model.test_cfg.rcnn.max_per_img == 120
    assert config.train_dataloader.dataset.type == 'mmdet_detr.RobustCocoDataset'
    assert config.param_scheduler[0].end == 120  # a tenth of the training
    assert config.train_cfg.max_epochs == 12


def test_the_file_is_the_config_and_its_parts_can_be_built(data, tmp_path):
    config, _ = fit(TINY, data, epochs=1, batch=2)
    assert config.param_scheduler == []  # one step
    write_config(config, data, tmp_path / 'config.py')
    loaded = Config.fromfile(tmp_path / 'config.py')
    assert loaded.to_dict() == config.to_dict()
    model = MODELS.build(loaded.model)
    assert model.bbox_head.num_classes == 2
    run = tmp_path / 'annotations'
    write_coco(run / 'train.json', 'abc')
    dataset = DATASETS.build(
        {
            **loaded.train_dataloader.dataset,
            'ann_file': str(run / 'train.json'),
            'data_prefix': {'img': str(tmp_path / 'mine')},
        }
    )
    assert len(dataset) == 3  # the image without boxes stays


def test_masks_are_refused():
    with pytest.raises(ConfigError, match='trains masks; finetune trains boxes'):
        fit('detr_tiny_panoptic_shapes', of_size(20))


def test_bases_by_path_and_name(tmp_path):
    path = ROOT / 'configs' / 'detr' / 'detr_r18_bccd.py'
    assert find_base(str(path)) == find_base('configs/detr/detr_r18_bccd.py') == find_base('detr_r18_bccd') == path
    with pytest.raises(ConfigError, match=r'no such config: detr_r18_bcd; near: detr_r18_bccd'):
        find_base('detr_r18_bcd')
    with pytest.raises(ConfigError, match='no such config'):
        find_base(str(tmp_path / 'detr_r18_bccd.py'))


def test_published_weights():
    official = 'https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth'
    assert published_weights(find_base(DEFAULT)) == official
    assert published_weights(find_base('detr_r50_8x2_500e_coco')) == official
    assert published_weights(find_base(TINY)) is None


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match='no such file'):
        require_weights(str(tmp_path / 'weights.pth'))
    with pytest.raises(CheckpointError, match=r'cannot be downloaded .*pass --weights FILE'):
        require_weights('http://127.0.0.1:9/weights-00000000.pth')
