"""The page about a detector whose detections are known."""

import argparse
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from helpers import shapes_config
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_detr.cli.evaluate import main
from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes
from mmdet_detr.errors import ConfigError
from mmdet_detr.evaluation import collect as collecting
from mmdet_detr.evaluation.analysis import analyse
from mmdet_detr.evaluation.boxes import Found, Truth
from mmdet_detr.evaluation.collect import Collected, collect
from mmdet_detr.evaluation.html import render
from mmdet_detr.evaluation.page import write, write_page

VOID = ('meta', 'img', 'br')


class Finder:
    """Finds the objects of a sample twice, the first time more surely; with noise, and nothing where that is None."""

    def __init__(self, noise: float | None) -> None:
        self.noise = noise
        self.random = torch.Generator().manual_seed(0)

    def data_preprocessor(self, data: dict, training: bool) -> dict:
        return data

    def __call__(self, inputs: list, data_samples: list, mode: str) -> list[DetDataSample]:
        return self.test_step({'data_samples': data_samples})

    def test_step(self, data: dict) -> list[DetDataSample]:
        return [self._predict(sample) for sample in data['data_samples']]

    def _predict(self, sample: DetDataSample) -> DetDataSample:
        boxes, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
        boxes = getattr(boxes, 'tensor', boxes) / torch.tensor(sample.get('scale_factor', (1.0, 1.0))).repeat(2)
        if self.noise is None:
            boxes, labels = boxes[:0], labels[:0]
        boxes, labels = boxes.repeat(2, 1), labels.repeat(2)
        noise = self.noise or 0
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        moved = boxes + noise * sides * torch.randn(boxes.shape, generator=self.random)
        wrong = torch.rand(len(labels), generator=self.random) < noise
        scores = 0.5 * torch.rand(len(labels), generator=self.random)
        scores[: len(labels) // 2] += 0.5
        sample.pred_instances = InstanceData(
            bboxes=moved, scores=scores, labels=torch.where(wrong, (labels + 1) % 3, labels)
        )
        return sample


@pytest.fixture
def finder(monkeypatch):
    """Makes collect take a Finder for the model of any checkpoint."""

    def use(noise: float | None) -> None:
        monkeypatch.setattr(collecting, 'init_detector', lambda *_, **__: Finder(noise))

    return use


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('evaluated')
    list(write_shapes(root, 'val', 30, ShapesOptions()))
    return root


@pytest.fixture
def run(data, tmp_path) -> Path:
    """The folder of a run with a config, whose evaluator gives AP of each class."""
    config = shapes_config(data, tmp_path)
    config.test_dataloader = config.val_dataloader
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_evaluator = {**config.val_evaluator, 'classwise': True}
    folder = tmp_path / 'run'
    folder.mkdir()
    config.dump(folder / 'config.py')
    return folder


class Page(HTMLParser):
    """Collects links, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.links = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ('src', 'href')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(out: Path, numbers: dict) -> None:
    """All files are there, all links lead to one of them, and nothing else is there."""
    assert json.loads((out / 'evaluation.json').read_text()) == numbers
    text = (out / 'index.html').read_text()
    page = Page(text)
    assert set(page.links) == set(numbers['pictures'])
    assert 'NaN' not in (out / 'evaluation.json').read_text()
    assert {path.name for path in out.iterdir()} == {'index.html', 'evaluation.json', *numbers['pictures']}
    assert not re.search(r'https?:|<script', text)


def test_numbers_are_those_of_mmdet(run, tmp_path, finder):
    """Overall, by size and by class; mmdet rounds to three digits."""
    finder(0.1)
    config = Config.fromfile(run / 'config.py')
    document = json.loads(Path(config.test_evaluator.ann_file).read_text())
    for annotation in document['annotations'][::3]:
        annotation['area'] = 5000  # the area in the file decides, not that of the box
    changed = tmp_path / 'areas.json'
    changed.write_text(json.dumps(document))
    config.test_dataloader.dataset.ann_file = config.test_evaluator.ann_file = str(changed)
    config.dump(run / 'config.py')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'errors_old.jpg').touch()
    numbers = write_page(run, tmp_path / 'out', checkpoint='none.pth')
    check_page(tmp_path / 'out', numbers)
    assert numbers['objects_by_size']['medium'] == len(document['annotations'][::3])
    theirs = numbers['evaluator']
    keys = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75', 'AP_small': 'mAP_s', 'AP_medium': 'mAP_m'}
    assert {key: numbers[key] for key in keys} == pytest.approx(
        {key: theirs[f'coco/bbox_{name}'] for key, name in keys.items()}, abs=5.1e-4
    )
    assert numbers['AP_large'] is None
    assert 0.1 < numbers['AP'] < 0.9
    assert [entry['name'] for entry in numbers['classes']] == ['circle', 'square', 'triangle']
    for entry in numbers['classes']:
        assert entry['AP'] == pytest.approx(theirs[f'coco/{entry["name"]}_precision'], abs=5.1e-4)
    assert sum(entry['objects'] for entry in numbers['classes']) == numbers['objects']
    assert np.sum(numbers['confusion']['counts'][:-1]) == numbers['objects']
    assert numbers['images'] == 30
    assert len(numbers['curves']['circle']) == 101


def test_perfect_detector(run, tmp_path, finder):
    finder(0.0)
    numbers = write_page(run, tmp_path / 'out', checkpoint='none.pth')
    assert (numbers['AP'], numbers['AP50']) == (1.0, 1.0)
    assert numbers['best_f1'] == {'threshold': pytest.approx(0.5, abs=0.05), 'precision': 1, 'recall': 1, 'f1': 1}
    assert {error['number'] for error in numbers['errors']} == {0}
    assert {error['cost_ap50'] for error in numbers['errors']} == {0}
    assert np.trace(numbers['confusion']['counts']) == np.sum(numbers['confusion']['counts']) == numbers['objects']
    check_page(tmp_path / 'out', numbers)


def test_nothing_found(run, tmp_path, finder):
    finder(None)
    numbers = write_page(run, tmp_path / 'out', checkpoint='none.pth')
    assert (numbers['AP'], numbers['best_f1'], numbers['detections']) == (0.0, None, 0)
    kinds = {error['kind']: error['number'] for error in numbers['errors']}
    assert kinds.pop('missed') == numbers['objects']
    assert set(kinds.values()) == {0}
    check_page(tmp_path / 'out', numbers)
    assert 'None of the' in (tmp_path / 'out' / 'index.html').read_text()


def test_boxes_that_are_no_numbers_or_outside(run, tmp_path, finder, monkeypatch):
    predict = Finder._predict

    def spoilt(self, sample):
        boxes = predict(self, sample).pred_instances.bboxes
        boxes[:1], boxes[1:2] = torch.nan, torch.tensor([200.0, 200, 210, 210])
        return sample

    monkeypatch.setattr(Finder, '_predict', spoilt)
    finder(0.1)
    numbers = write_page(run, tmp_path / 'out', checkpoint='none.pth')
    assert 0 < numbers['detections'] < 2 * numbers['objects']
    assert 'errors_background.jpg' in numbers['pictures']


def test_some_of_the_images(run, tmp_path, finder):
    finder(0.1)
    numbers = write_page(run, tmp_path / 'out', checkpoint='none.pth', max_images=5)
    assert (numbers['images'], numbers['evaluator']) == (5, {})


def test_command(run, finder, capsys):
    finder(0.1)
    main(argparse.Namespace(run=run, checkpoint='none.pth', out=None, device='cpu', max_images=None))
    out = capsys.readouterr().out
    assert re.search(r'all\D+\d+\D+0\.\d{3}', out)
    assert str(run / 'evaluation' / 'index.html') in out.replace('\n', '')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'run': 'nowhere'}, 'no such config or folder of a run: nowhere'),
        ({'checkpoint': None}, 'has no checkpoint'),
        ({'max_images': 0}, 'max_images=0'),
        ({'device': 'cuda:99'}, 'there is no device cuda:99'),
    ],
)
def test_bad_input_is_one_line(run, finder, capsys, change, message):
    finder(0.1)
    given = {'run': run, 'checkpoint': 'none.pth', 'out': None, 'device': 'cpu', 'max_images': None, **change}
    given['run'] = Path(given['run'])
    with pytest.raises(SystemExit) as ended:
        main(argparse.Namespace(**given))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('evaluate: ')
    assert message in lines[0]


def test_weights_of_other_classes(run, tmp_path, finder, monkeypatch):
    finder(0.1)
    monkeypatch.setattr(Finder, 'dataset_meta', {'classes': ('cat', 'dog')}, raising=False)
    with pytest.raises(ConfigError, match='detects cat, dog, and the data has circle, square, triangle'):
        write_page(run, tmp_path / 'page', 'none.pth')


def test_no_objects(run, finder):
    finder(0.1)
    config = Config.fromfile(run / 'config.py')
    document = json.loads(Path(config.test_evaluator.ann_file).read_text())
    empty = run / 'empty.json'
    empty.write_text(json.dumps({**document, 'annotations': []}))
    config.test_dataloader.dataset.ann_file = str(empty)
    with pytest.raises(ConfigError, match='no object'):
        collect(config, 'none.pth', 'cpu')
    config.pop('test_dataloader')
    with pytest.raises(ConfigError, match='no test_dataloader'):
        collect(config, 'none.pth', 'cpu')


def test_several_data_sets(run, finder):
    finder(0.1)
    config = Config.fromfile(run / 'config.py')
    dataset, metric = config.test_dataloader.dataset, config.test_evaluator
    config.test_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [dataset, dataset]}
    config.test_evaluator = {
        'type': 'MultiDatasetsEvaluator',
        'metrics': [metric, metric],
        'dataset_prefixes': ['day', 'night'],
    }
    collected = collect(config, 'none.pth', 'cpu')
    assert len(collected.paths) == 60
    half = len(collected.truth.images) // 2
    assert np.array_equal(collected.truth.boxes[:half], collected.truth.boxes[half:])
    assert {'day/coco/bbox_mAP', 'night/coco/bbox_mAP'} <= collected.metrics.keys()


def test_pascal_voc(tmp_path, finder):
    """A difficult object is ignored; boxes begin at 1 in the file."""
    finder(0.0)
    root = tmp_path / 'VOC2007'
    for folder in ('JPEGImages', 'Annotations', 'ImageSets'):
        (root / folder).mkdir(parents=True)
    objects = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x}</xmin><ymin>1</ymin>'
        f'<xmax>{x + 20}</xmax><ymax>21</ymax></bndbox></object>'
        for name, difficult, x in (('cat', 0, 1), ('dog', 0, 31), ('dog', 1, 61))
    )
    size = '<size><width>100</width><height>50</height></size>'
    (root / 'Annotations' / 'a.xml').write_text(f'<annotation>{size}{objects}</annotation>')
    (root / 'ImageSets' / 'test.txt').write_text('a\n')
    mmcv.imwrite(np.full((50, 100, 3), 128, dtype=np.uint8), str(root / 'JPEGImages' / 'a.jpg'))
    config = Config(
        {
            'test_dataloader': {
                'dataset': {
                    'type': 'VOCDataset',
                    'data_root': str(tmp_path),
                    'ann_file': 'VOC2007/ImageSets/test.txt',
                    'data_prefix': {'sub_data_root': 'VOC2007/'},
                    'metainfo': {'classes': ('cat', 'dog', 'cow')},
                    'test_mode': True,
                    'pipeline': [
                        {'type': 'LoadImageFromFile'},
                        {'type': 'Resize', 'scale': (50, 25), 'keep_ratio': True},
                        {'type': 'LoadAnnotations', 'with_bbox': True},
                        {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'ori_shape', 'img_shape')},
                    ],
                }
            },
            'test_evaluator': {'type': 'VOCMetric', 'metric': 'mAP'},
        }
    )
    collected = collect(config, 'none.pth', 'cpu')
    assert collected.truth.boxes[0].tolist() == [0, 0, 20, 20]
    assert collected.truth.ignored.tolist() == [False, False, True]
    numbers = write(collected, analyse(collected), tmp_path / 'out', {'config': 'a', 'checkpoint': 'b'}, 'here')
    check_page(tmp_path / 'out', numbers)
    assert (numbers['objects'], numbers['ignored_objects'], numbers['AP']) == (2, 1, pytest.approx(1))
    assert numbers['evaluator']['pascal_voc/mAP'] == pytest.approx(1)
    cow = numbers['classes'][2]
    assert (cow['objects'], cow['AP'], cow['best_f1']) == (0, None, None)


def test_many_classes(tmp_path):
    """The second of two small pictures is of the worse class; class names are text, not HTML."""
    names = tuple(f'<class {i}>' for i in range(12))
    boxes = np.tile(np.array([[0.0, 0, 10, 10]]), (12, 1))
    truth = Truth(np.arange(12), boxes, np.arange(12), np.zeros(12, dtype=bool), np.full(12, 100.0))
    found = Found(np.arange(11), boxes[:11], np.arange(11), np.full(11, 0.9))
    path = tmp_path / 'image.jpg'
    mmcv.imwrite(np.zeros((20, 20, 3), dtype=np.uint8), str(path))
    collected = Collected(names, [str(path)] * 12, truth, found, {'coco/segm_mAP': 0.25}, [1.0])
    numbers = write(collected, analyse(collected), tmp_path / 'out', {'config': 'a&b', 'checkpoint': 'b'}, 'here')
    check_page(tmp_path / 'out', numbers)
    assert 'class_curves.png' in numbers['pictures']
    assert numbers['AP'] == pytest.approx(11 / 12)
    text = render(numbers, {}, {})
    assert '&lt;class 11&gt; (AP 0.000, 1 objects)' in text
    assert '<td>masks</td><td>0.250</td>' in text
