import json
import math
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from distributed_worker import evaluate_on_rank
from helpers import ROOT
from mmdet.evaluation import CocoPanopticMetric
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData

from mmdet_detr.compat.missing_panopticapi import id2rgb, rgb2id
from mmdet_detr.datasets import AnnotationError, BrokenDataError
from mmdet_detr.datasets.shapes import STUFF, THINGS
from mmdet_detr.errors import ConfigError
from mmdet_detr.evaluation import PanopticMetric
from mmdet_detr.models.masks.panoptic import panoptic_map

COCO = ROOT.parent / 'shared' / 'data' / 'coco_panoptic_sample' / 'sample_data'  # photographs, not part of the project
SHAPES_META = {'classes': (*THINGS, *STUFF), 'thing_classes': THINGS, 'stuff_classes': STUFF}
NAMES = [f'{quality}{kind}' for kind in ('', '_th', '_st') for quality in ('PQ', 'SQ', 'RQ')]


def make_sample(image_id: int, labels: np.ndarray) -> DetDataSample:
    sample = DetDataSample(metainfo={'img_id': image_id, 'img_path': 'any/where.jpg', 'ori_shape': labels.shape})
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.as_tensor(labels)[None].long())
    return sample


def truth_as_prediction(ann_file: Path, pngs: Path, meta: dict, drop_crowd: bool = True) -> list[DetDataSample]:
    """The truth of a file in the form of predictions; regions of a crowd are VOID."""
    document = json.loads(ann_file.read_text())
    names = {category['id']: category['name'] for category in document['categories']}
    samples = []
    for annotation in document['annotations']:
        ids = rgb2id(mmcv.imread(str(pngs / annotation['file_name']), channel_order='rgb'))
        values = np.full(ids.shape, len(meta['classes']))
        for number, segment in enumerate(annotation['segments_info'], 1):
            name = names[segment['category_id']]
            if name in meta['classes'] and not (drop_crowd and segment['iscrowd']):
                is_thing = name in meta['thing_classes']
                values[ids == segment['id']] = meta['classes'].index(name) + 1000 * number * is_thing
        samples.append(make_sample(annotation['image_id'], values))
    return samples


def evaluate(metric: PanopticMetric, meta: dict, samples: list[DetDataSample]) -> dict[str, float]:
    """What a runner gets, by name without the prefix."""
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = meta
    for start in range(0, len(samples), 3):
        evaluator.process(samples[start : start + 3])
    results = evaluator.evaluate(len(samples))
    assert all(name.startswith('coco_panoptic/') for name in results)
    return {name.partition('/')[2]: value for name, value in results.items()}


class Case:
    """A panoptic data set of two images of 4 x 6 pixels in a folder; tests change its document and write it."""

    def __init__(self, folder: Path) -> None:
        self.meta = {'classes': ('cat', 'dog', 'sky'), 'thing_classes': ('cat', 'dog'), 'stuff_classes': ('sky',)}
        self.folder = folder
        left = np.zeros((4, 6), dtype=int)
        left[:, :2], left[:, 2:4], left[:, 4:] = 300, 70000, 5
        right = np.where(left == 5, 300, 8)
        self.maps = {'a/x.png': left, 'b/x.png': right}
        self.document = {
            'images': [
                {'id': 1, 'file_name': 'a/x.jpeg', 'height': 4, 'width': 6},
                {'id': 2, 'file_name': 'b/x.JPG', 'height': 4, 'width': 6},
            ],
            'categories': [
                {'id': 11, 'name': 'cat', 'isthing': 1},
                {'id': 12, 'name': 'dog', 'isthing': 1},
                {'id': 30, 'name': 'sky', 'isthing': 0},
            ],
            'annotations': [
                {'image_id': 1, 'file_name': 'a/x.png', 'segments_info': self._segments({300: 11, 70000: 12, 5: 30})},
                {'image_id': 2, 'file_name': 'b/x.png', 'segments_info': self._segments({8: 30, 300: 11})},
            ],
        }

    @staticmethod
    def _segments(categories: dict[int, int]) -> list[dict]:
        return [
            {'id': number, 'category_id': category, 'iscrowd': 0, 'area': 8, 'bbox': [0, 0, 1, 1]}
            for number, category in categories.items()
        ]

    def write(self) -> str:
        path = self.folder / 'panoptic_val.json'
        path.write_text(json.dumps(self.document))
        for name, ids in self.maps.items():
            mmcv.imwrite(id2rgb(ids)[..., ::-1], str(self.folder / 'panoptic_val' / name))
        return str(path)

    def perfect(self) -> list[DetDataSample]:
        return truth_as_prediction(Path(self.write()), self.folder / 'panoptic_val', self.meta)


@pytest.fixture
def case(tmp_path) -> Case:
    return Case(tmp_path)


def test_it_is_built_by_its_name(case):
    metric = METRICS.build({'type': 'mmdet_detr.PanopticMetric', 'ann_file': case.write()})
    assert type(metric) is PanopticMetric
    assert type(METRICS.build({'type': 'CocoPanopticMetric'})) is CocoPanopticMetric


def test_truth_as_prediction_is_100_on_shapes(shapes):
    ann_file = shapes / 'annotations' / 'panoptic_val.json'
    samples = truth_as_prediction(ann_file, shapes / 'annotations' / 'panoptic_val', SHAPES_META)
    assert evaluate(PanopticMetric(str(ann_file)), SHAPES_META, samples) == dict.fromkeys(NAMES, 100.0)


def as_the_mask_head_maps_it(samples: list[DetDataSample], num_things: int, num_classes: int) -> None:
    """Maps of certain logits of the segments, in one padded batch."""
    maps = [sample.pred_panoptic_seg.sem_seg[0] for sample in samples]
    padded = tuple(max(sizes) for sizes in zip(*(values.shape for values in maps), strict=True))
    for sample, values in zip(samples, maps, strict=True):
        size = tuple(values.shape)
        segments = values.unique()
        segments = segments[segments % 1000 < num_classes]
        logits = torch.full((len(segments), *padded), -10.0)
        logits[:, : size[0], : size[1]][values == segments[:, None, None]] = 10.0
        labels = segments % 1000
        sample.pred_panoptic_seg.sem_seg = panoptic_map(logits, labels, num_things, num_classes, 5, padded, size, size)[
            None
        ]


@pytest.mark.skipif(not COCO.is_dir(), reason=f'the photographs are not at {COCO}')
@pytest.mark.parametrize('mapped', [False, True])
def test_truth_as_prediction_is_100_on_photographs(mapped):
    from mmdet.datasets import CocoPanopticDataset

    meta = CocoPanopticDataset.METAINFO
    meta = {name: list(meta[name]) for name in ('classes', 'thing_classes', 'stuff_classes')}
    ann_file = COCO / 'panoptic_examples.json'
    # A map has no VOID, so the crowds are in it as objects, which count neither as right nor as wrong.
    samples = truth_as_prediction(ann_file, COCO / 'panoptic_examples', meta, drop_crowd=not mapped)
    if mapped:
        as_the_mask_head_maps_it(samples, len(meta['thing_classes']), len(meta['classes']))
    results = evaluate(PanopticMetric(str(ann_file), str(COCO / 'panoptic_examples')), meta, samples)
    assert results == pytest.approx(dict.fromkeys(NAMES, 100.0))


def test_equals_mmdets_metric_where_that_works(shapes):
    """Predictions with errors of every kind."""
    ann_file, pngs = shapes / 'annotations' / 'panoptic_val.json', shapes / 'annotations' / 'panoptic_val'
    samples = truth_as_prediction(ann_file, pngs, SHAPES_META)
    for number, sample in enumerate(samples):
        seg = sample.pred_panoptic_seg.sem_seg
        seg[:, : 12 * number, : 20 * number] = 7  # VOID
        seg[:, 40:, 30:] = torch.where(seg[:, 40:, 30:] > 1000, 9001, 5)
        sample.set_metainfo({'img_path': f'{sample.img_id - 1:06d}.jpg'})
    ours = evaluate(PanopticMetric(str(ann_file), classwise=True), SHAPES_META, samples)
    theirs = evaluate(CocoPanopticMetric(str(ann_file), str(pngs)), SHAPES_META, samples)
    assert ours == pytest.approx(theirs)
    assert 5 < ours['PQ'] < 95


def test_predictions_stay_as_they_are(case):
    samples = [make_sample(image_id, np.full((4, 6), 3)) for image_id in (1, 2)]
    results = evaluate(PanopticMetric(case.write()), case.meta, samples)
    assert [results[name] for name in ('PQ', 'PQ_th', 'PQ_st')] == [0, 0, 0]  # nothing found
    assert all((sample.pred_panoptic_seg.sem_seg == 3).all() for sample in samples)


def test_where_nothing_is_found_the_log_says_what_to_change(case, monkeypatch):
    said = []
    monkeypatch.setattr('mmdet_detr.evaluation.panoptic_metric.warn', said.append)
    perfect = case.perfect()
    evaluate(PanopticMetric(case.write()), case.meta, perfect)
    assert said == []
    for sample in perfect:
        sample.pred_panoptic_seg.sem_seg.fill_(len(case.meta['classes']))
    evaluate(PanopticMetric(case.write()), case.meta, perfect)
    assert len(said) == 1
    assert f'no segment is predicted in {len(perfect)} images; panoptic.score_thr' in said[0]


def test_images_in_folders_with_equal_names_and_missing_keys(case):
    for annotation in case.document['annotations']:
        for segment in annotation['segments_info']:
            del segment['area'], segment['bbox']
    samples = case.perfect()
    for annotation in case.document['annotations']:
        for segment in annotation['segments_info']:
            del segment['iscrowd']
    for category in case.document['categories']:
        del category['isthing']
    assert evaluate(PanopticMetric(case.write()), case.meta, samples) == dict.fromkeys(NAMES, 100.0)


def test_things_are_told_by_the_file_if_the_data_set_does_not_tell(case):
    samples = case.perfect()
    samples[0].pred_panoptic_seg.sem_seg[samples[0].pred_panoptic_seg.sem_seg == 2] = 3  # a sky is lost
    meta = {'classes': case.meta['classes']}
    results = evaluate(PanopticMetric(case.write()), meta, samples)
    assert (results['PQ_th'], results['PQ_st']) == (100.0, pytest.approx(100 / 1.5))
    del case.document['categories'][1]['isthing']
    with pytest.raises(
        ConfigError, match='no isthing of 0 or 1, nor in thing_classes or stuff_classes of metainfo: dog'
    ):
        PanopticMetric(case.write()).dataset_meta = meta


@pytest.mark.parametrize('order', [(2, 1, 0), (1, 2, 0)])
def test_classes_are_matched_by_name(case, order):
    case.document['categories'] = [case.document['categories'][i] for i in order]
    samples = case.perfect()
    assert (samples[0].pred_panoptic_seg.sem_seg[0, 0] == torch.tensor([1000, 1000, 2001, 2001, 2, 2])).all()
    assert evaluate(PanopticMetric(case.write()), case.meta, samples) == dict.fromkeys(NAMES, 100.0)


def test_categories_without_a_class_are_void(case):
    """Dogs are unknown: what is predicted there is no false positive and does not lower an IoU."""
    meta = {'classes': ('cat', 'sky'), 'thing_classes': ('cat',)}
    samples = [
        make_sample(1, np.array([[1000] * 4 + [1] * 2] * 4)),
        make_sample(2, np.array([[1] * 4 + [1000] * 2] * 4)),
    ]
    assert evaluate(PanopticMetric(case.write()), meta, samples) == dict.fromkeys(NAMES, 100.0)


def test_without_stuff_its_quality_is_nan(case):
    meta = {'classes': ('dog', 'cat'), 'thing_classes': ('dog', 'cat')}
    samples = [make_sample(1, np.array([[1001, 1001, 1000, 1000, 2, 2]] * 4)), make_sample(2, np.full((4, 6), 2))]
    results = evaluate(PanopticMetric(case.write()), meta, samples)
    assert results['PQ'] == results['PQ_th'] == pytest.approx(100 * (1 + 1 / 1.5) / 2)  # a cat of two is missed
    assert math.isnan(results['PQ_st'])


def test_crowds_and_unknown_pixels_count_for_nothing(case):
    case.document['annotations'][0]['segments_info'][0]['iscrowd'] = 1
    case.document['annotations'][1]['segments_info'].pop()  # its pixels are in the PNG only
    samples = case.perfect()
    assert evaluate(PanopticMetric(case.write()), case.meta, samples)['PQ'] == 100.0
    samples = truth_as_prediction(Path(case.write()), case.folder / 'panoptic_val', case.meta, drop_crowd=False)
    assert evaluate(PanopticMetric(case.write()), case.meta, samples)['PQ'] == 100.0


def test_results_are_in_order_of_the_data_and_one_an_image(case):
    """mmengine drops what a sampler has added, at the end of the list of all ranks."""
    metric = PanopticMetric(case.write())
    metric.dataset_meta = case.meta
    samples = case.perfect()
    metric.process({}, [sample.to_dict() for sample in [*samples, make_sample(1, np.full((4, 6), 3))]])
    assert len(metric.results) == 3
    assert metric.evaluate(2)['coco_panoptic/PQ'] == 100.0
    assert metric.results == []


def test_without_a_result_all_is_nan(case):
    metric = PanopticMetric(case.write())
    metric.dataset_meta = case.meta
    assert all(math.isnan(value) for value in metric.evaluate(0).values())


def test_two_ranks_count_each_image_once(shapes, tmp_path):
    """The first image is predicted with errors, and the second rank gets it a second time."""
    ann_file = shapes / 'annotations' / 'panoptic_val.json'
    samples = truth_as_prediction(ann_file, shapes / 'annotations' / 'panoptic_val', SHAPES_META)[:3]
    values = [sample.pred_panoptic_seg.sem_seg[0] for sample in samples]
    values[0][:40] = 7  # VOID
    alone = evaluate(PanopticMetric(str(ann_file)), SHAPES_META, samples)
    arguments = (str(tmp_path), str(ann_file), SHAPES_META, values)
    mp.start_processes(evaluate_on_rank, args=arguments, nprocs=2, start_method='fork')  # importing takes seconds
    for rank in range(2):
        results = torch.load(tmp_path / f'{rank}.pth')
        assert {name.partition('/')[2]: value for name, value in results.items()} == pytest.approx(alone)
    assert 20 < alone['PQ'] < 95


def test_results_are_written_in_cocos_format(case, tmp_path):
    samples = case.perfect()
    samples[1].pred_panoptic_seg.sem_seg[:, :2] = 3
    results = evaluate(PanopticMetric(case.write(), outfile_prefix=str(tmp_path / 'out' / 'run')), case.meta, samples)
    assert results['PQ_th'] == 75.0  # dog 1; cat: one of IoU 1, and one of IoU 1/2 that is not found
    written = json.loads((tmp_path / 'out' / 'run.panoptic.json').read_text())['annotations']
    assert [entry['file_name'] for entry in written] == ['a/x.png', 'b/x.png']
    assert written[0]['segments_info'] == [
        {'id': 1, 'category_id': 30, 'isthing': 0, 'area': 8},
        {'id': 2, 'category_id': 11, 'isthing': 1, 'area': 8},
        {'id': 3, 'category_id': 12, 'isthing': 1, 'area': 8},
    ]
    png = rgb2id(mmcv.imread(str(tmp_path / 'out' / 'run.panoptic' / 'b' / 'x.png'), channel_order='rgb'))
    assert png.tolist() == [[0] * 6] * 2 + [[1, 1, 1, 1, 2, 2]] * 2


def test_results_of_images_without_truth_are_written_only(case, tmp_path):
    samples = case.perfect()
    del case.document['annotations']
    shutil.rmtree(case.folder / 'panoptic_val')
    case.maps = {}
    metric = PanopticMetric(case.write(), format_only=True, outfile_prefix=str(tmp_path / 'run'))
    assert evaluate(metric, case.meta, samples) == {}
    assert len(json.loads((tmp_path / 'run.panoptic.json').read_text())['annotations']) == 2
    assert (tmp_path / 'run.panoptic' / 'b' / 'x.png').is_file()
    with pytest.raises(ConfigError, match='needs outfile_prefix'):
        PanopticMetric(case.write(), format_only=True)


def break_name(case):
    case.document['annotations'][1]['file_name'] = '../x.png'


def break_keys(case):
    del case.document['annotations'][1]['file_name']


def break_segment(case):
    del case.document['annotations'][1]['segments_info'][0]['category_id']


def drop_annotation(case):
    case.document['annotations'].pop()


def break_png(case):
    case.document['annotations'][1]['file_name'] = 'c/x.png'


@pytest.mark.parametrize(
    ('break_it', 'reason'),
    [
        (break_name, r"annotations\[1\], image 2: outside the data: file_name '\.\./x\.png'"),
        (break_keys, r'annotations\[1\]: missing key: file_name'),
        (break_segment, r'annotations\[1\]\.segments_info\[0\], image 2: missing key: category_id'),
        (drop_annotation, r'images\[1\], image 2: image without segments'),
        (break_png, r'1 of its PNGs are not there: .*c/x\.png'),
    ],
)
def test_a_file_that_cannot_be_used_ends_at_the_start(case, break_it, reason):
    break_it(case)
    with pytest.raises(AnnotationError, match=reason):
        PanopticMetric(case.write())


def test_what_does_not_fit_is_named(case):
    metric = PanopticMetric(case.write())
    with pytest.raises(ConfigError, match=r'panoptic_val\.json has no category cow'):
        metric.dataset_meta = {**case.meta, 'classes': ('cat', 'cow')}
    with pytest.raises(BrokenDataError, match='no image with the id 7'):
        evaluate(metric, case.meta, [make_sample(7, np.zeros((4, 6)))])
    with pytest.raises(BrokenDataError, match=r'a/x\.png: the prediction has \(5, 6\) pixels'):
        evaluate(metric, case.meta, [make_sample(1, np.zeros((5, 6)))])
    (case.folder / 'panoptic_val' / 'a' / 'x.png').write_bytes(b'no picture')
    with pytest.raises(BrokenDataError, match=r'a/x\.png: no image that OpenCV reads'):
        evaluate(metric, case.meta, [make_sample(1, np.zeros((4, 6)))])
    with pytest.raises(ConfigError, match='needs a model that predicts a panoptic map'):
        evaluate(metric, case.meta, [DetDataSample(metainfo={'img_id': 1})])
