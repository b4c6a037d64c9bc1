import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from mmdet_detr.datasets.shapes import STUFF, THINGS
from mmdet_detr.reports import run
from mmdet_detr.reports.run import (
    SHOWN_SIZE,
    Scalars,
    _resize,
    _texts,
    _truth,
    draw_curve,
    draw_predictions,
    read_scalars,
    summarise,
)
from mmdet_detr.reports.sheet import sheet


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in the place of files."""
    drawn: list[Figure] = []

    def keep(figure: Figure, *_: object, **__: object) -> None:
        figure.draw_without_rendering()
        drawn.append(figure)

    monkeypatch.setattr(Figure, 'savefig', keep)
    return drawn


@pytest.fixture
def work_dir(tmp_path):
    """A folder with the logs of two runs as mmengine writes them. The second run resumed after iteration 20."""
    runs = {
        '20260101_000000': [(10, 3.0), 0.1, (20, 2.5), 0.2, (30, 2.4)],
        '20260101_010000': [(30, 2.0), 0.3, (40, 1.5)],
    }
    for name, entries in runs.items():
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        lines = [
            {'coco/bbox_mAP': entry, 'coco/bbox_mAP_50': 2 * entry, 'step': 0}
            if isinstance(entry, float)
            else {'loss': entry[1], 'iter': entry[0], 'step': entry[0]}
            for entry in entries
        ]
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    return tmp_path


def test_evaluations_stand_at_the_iteration_before_them(work_dir):
    scalars = read_scalars(work_dir)
    assert scalars.steps == [10, 20, 30, 40]
    assert scalars.losses == [3.0, 2.5, 2.0, 1.5]
    assert scalars.val_steps == [10, 20, 30]
    assert scalars.results == {'AP': [0.1, 0.2, 0.3], 'AP50': [0.2, 0.4, 0.6]}


def test_a_run_started_anew_replaces_what_was_there(work_dir):
    folder = work_dir / '20260101_020000' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(json.dumps({'loss': 9.0, 'iter': 10, 'step': 10}))
    scalars = read_scalars(work_dir)
    assert (scalars.steps, scalars.losses, scalars.results) == ([10], [9.0], {})


def test_curve_is_a_png(work_dir):
    draw_curve(read_scalars(work_dir), work_dir / 'curve.png')
    assert (work_dir / 'curve.png').read_bytes().startswith(b'\x89PNG')


def test_no_training_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='no scalars'):
        read_scalars(tmp_path)


def test_summary(work_dir):
    assert summarise(work_dir).startswith('not tested yet')
    run = work_dir / '20260101_020000'
    run.mkdir()
    (run / '20260101_020000.json').write_text(json.dumps({'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.75}))
    log = '2026/01/01 02:00:00 - mmengine - INFO - first\nno date\n2026/01/01 02:01:30 - mmengine - INFO - last\n'
    (run / '20260101_020000.log').write_text(log)
    (work_dir / 'data_check').mkdir()
    (work_dir / 'data_check' / 'data_check.json').write_text('[]')
    assert summarise(work_dir).startswith('AP 0.500, AP50 0.750, 0:01:30 of training and testing')


@pytest.mark.parametrize(('losses', 'scale', 'ticks'), [([90, 7], 'log', [10, 20, 50]), ([9, 7], 'linear', [7, 8, 9])])
def test_the_axis_of_the_loss_has_ticks_that_can_be_read(figures, losses, scale, ticks):
    draw_curve(Scalars([1, 2], losses, [2], {'AP': [0.5]}), Path('curve.png'))
    left, right = figures[0].axes
    assert left.get_yscale() == scale
    shown = [label.get_text() for label in left.get_yticklabels()]
    assert {str(tick) for tick in ticks} <= {text.removesuffix('.0').removesuffix('.00') for text in shown}
    legend = right.get_legend().get_window_extent()
    assert legend.x0 >= right.get_window_extent().x1  # beside the curves


@pytest.fixture
def panoptic_work_dir(tmp_path):
    """Logs of a panoptic run; its first evaluation had no stuff."""
    folder = tmp_path / '20260101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    results = {'coco/bbox_mAP': 0.4, 'coco/bbox_mAP_50': 0.6, 'coco/segm_mAP': 0.3, 'coco_panoptic/PQ': 43.4}
    kinds = {'coco_panoptic/PQ_th': 48.25, 'coco_panoptic/PQ_st': 36.0}
    lines = [{'loss': 2.0, 'iter': 10}, results, {'loss': 1.0, 'iter': 20}, {**results, **kinds}]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    (folder.parent / '20260101_000000.json').write_text(json.dumps({**results, **kinds}))
    return tmp_path


def test_masks_and_panoptic_quality_are_in_curves_and_summary(panoptic_work_dir):
    scalars = read_scalars(panoptic_work_dir)
    assert list(scalars.results) == ['AP', 'AP50', 'mask AP', 'PQ', 'PQ things', 'PQ stuff']
    assert scalars.results['mask AP'] == [0.3, 0.3]
    assert scalars.results['PQ'] == [pytest.approx(0.434)] * 2
    assert scalars.results['PQ things'] == [pytest.approx(math.nan, nan_ok=True), pytest.approx(0.4825)]
    draw_curve(scalars, panoptic_work_dir / 'curve.png')
    assert summarise(panoptic_work_dir).startswith(
        'AP 0.400, AP50 0.600, mask AP 0.300, PQ 43.4, PQ things 48.2, PQ stuff 36.0, 0:00:00 of training'
    )


@pytest.mark.parametrize(
    ('metrics', 'names'),
    [
        ({'pascal_voc/AP50': 0.5, 'pascal_voc/mAP': 0.5}, ['mAP']),
        ({'night/bbox_mAP': 0.5, 'night/bbox_mAP_50': 0.5}, ['AP night', 'AP50 night']),
        ({'a/coco/bbox_mAP': 0.5, 'b/coco/bbox_mAP': 0.5, 'b/coco/cat_precision': 0.9}, ['AP a', 'AP b']),
        ({'lvis/bbox_AP': 0.5, 'lvis/segm_AP': 0.5}, ['AP', 'mask AP']),
        ({'day/PQ': 50.0}, ['PQ day']),
    ],
)
def test_results_of_other_metrics(work_dir, metrics, names):
    """VOC, a prefix of the config, and a MultiDatasetsEvaluator, which writes the name of the data set before."""
    folder = work_dir / '20260101_020000'
    (folder / 'vis_data').mkdir(parents=True)
    lines = [{'loss': 2.0, 'iter': 10}, {**metrics, 'step': 0}]
    (folder / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    (folder / '20260101_020000.json').write_text(json.dumps(metrics))
    scalars = read_scalars(work_dir)
    assert scalars.results == {name: [0.5] for name in names}
    shown = '50.0' if 'PQ day' in names else '0.500'
    assert summarise(work_dir).startswith(f'{", ".join(f"{name} {shown}" for name in names)}, 0:00:00')


def panoptic_dataset(shapes: Path, pipeline: list[dict]) -> dict:
    return {
        'type': 'mmdet_detr.PanopticDataset',
        'data_root': f'{shapes}/annotations/',
        'metainfo': {'classes': (*THINGS, *STUFF), 'palette': [(i * 30, 255 - i * 30, 90) for i in range(7)]},
        'ann_file': 'panoptic_val.json',
        'data_prefix': {'img': '../val/', 'seg': 'panoptic_val/'},
        'test_mode': True,
        'pipeline': pipeline,
    }


def instance_dataset(shapes: Path, pipeline: list[dict]) -> dict:
    return {
        'type': 'mmdet_detr.RobustCocoDataset',
        'data_root': f'{shapes}/annotations/',
        'metainfo': {'classes': THINGS, 'palette': [(220, 20, 60), (0, 130, 200), (255, 190, 0)]},
        'ann_file': 'instances_val.json',
        'data_prefix': {'img': '../val/'},
        'test_mode': True,
        'pipeline': pipeline,
    }


LOAD_MASKS = {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}


@pytest.mark.parametrize(
    ('make', 'pipeline', 'with_masks'),
    [
        (panoptic_dataset, [{'type': 'mmdet_detr.LoadPanopticSegments'}], True),
        (panoptic_dataset, [], True),
        (instance_dataset, [LOAD_MASKS], True),
        (instance_dataset, [{'type': 'LoadAnnotations'}], False),
        (instance_dataset, [], False),
    ],
)
def test_truth_of_every_kind_of_data(shapes, make, pipeline, with_masks):
    dataset = DATASETS.build(make(shapes, pipeline))
    info = dataset.get_data_info(0)
    truth = _truth(info, dataset.pipeline.transforms)
    assert truth.labels.tolist() == [instance['bbox_label'] for instance in info['instances']]
    assert truth.bboxes.shape == (len(truth), 4)
    assert ('masks' in truth) is with_masks
    if with_masks:
        for box, mask in zip(truth.bboxes.tolist(), truth.masks.numpy(), strict=True):
            rows, columns = mask.nonzero()
            assert box == pytest.approx([columns.min(), rows.min(), columns.max(), rows.max()], abs=2)


@pytest.mark.parametrize('found', [True, False])
def test_sheet_of_panoptic_maps(shapes, tmp_path, monkeypatch, found):
    """The truth as prediction: the map is drawn on both sides; or nothing is found."""
    dataset_config = panoptic_dataset(shapes, [])
    dataset = DATASETS.build(dataset_config)
    infos = {info['img_path']: info for info in map(dataset.get_data_info, range(len(dataset)))}

    def predict(model: None, path: str) -> DetDataSample:
        truth = _truth(infos[path], [])
        values = torch.full((1, 64, 64), 7)
        for number, (mask, label) in enumerate(zip(truth.masks, truth.labels, strict=True)):
            values[0][mask.bool() & found] = label + 1000 * number
        masks = torch.zeros(0, 64, 64, dtype=torch.bool)
        sample = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=values))
        sample.pred_instances = InstanceData(
            bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long), masks=masks
        )
        return sample

    monkeypatch.setattr(run, 'init_detector', lambda *_, **__: None)
    monkeypatch.setattr(run, 'inference_detector', predict)
    pairs = []
    monkeypatch.setattr(run, 'sheet', lambda given, *more: pairs.extend(given) or sheet(given, *more))
    config = Config({'test_dataloader': {'dataset': dataset_config}})
    draw_predictions(config, tmp_path / 'none.pth', tmp_path / 'sheet.png', num_images=2, columns=1, score_thr=0.5)
    assert (tmp_path / 'sheet.png').read_bytes().startswith(b'\x89PNG')
    assert [pair.name for pair in pairs] == [Path(path).name for path in (min(infos), max(infos))]
    for _, left, right in pairs:
        assert left.shape == right.shape == (SHOWN_SIZE, SHOWN_SIZE, 3)
        assert bool(np.abs(left.astype(int) - right).mean() < 5) is found


def sample_of(boxes: int, height: int, width: int, score: float = 0.9) -> DetDataSample:
    sample = DetDataSample()
    objects = {'bboxes': torch.tensor([[0.0, 0, width, height]] * boxes), 'labels': torch.arange(boxes) % 2}
    sample.gt_instances = InstanceData(**objects)
    sample.pred_instances = InstanceData(**objects, scores=torch.full((boxes,), score))
    return sample


@pytest.mark.parametrize(('height', 'width'), [(64, 32), (600, 900), (1, 2000)])
def test_boxes_follow_the_size_on_the_sheet(height, width):
    sample = sample_of(1, height, width)
    sample.pred_instances.masks = torch.ones(1, height, width, dtype=torch.bool)
    image = _resize(np.zeros((height, width, 3), dtype=np.uint8), sample)
    assert max(image.shape) == SHOWN_SIZE
    assert sample.pred_instances.masks.shape[1:] == image.shape[:2]
    assert sample.gt_instances.bboxes[0].tolist() == pytest.approx([0, 0, *image.shape[1::-1]], abs=1)


@pytest.mark.parametrize(
    ('boxes', 'names', 'texts'), [(1, None, ['90']), (1, ['cat'], ['cat 90']), (11, None, [''] * 11)]
)
def test_texts_of_boxes(boxes, names, texts):
    sample = sample_of(boxes, 8, 8)
    assert _texts(sample.pred_instances, names) == texts
    assert _texts(sample.gt_instances, names) == (names or [''] * boxes)
