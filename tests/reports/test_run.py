import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from mmdet_detr.datasets.shapes import STUFF, THINGS
from mmdet_detr.reports import run
from mmdet_detr.reports.run import _sheet, _truth, draw_curve, draw_predictions, read_scalars, summarise


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
    assert summarise(work_dir).startswith('AP 0.500, AP50 0.750, 0:01:30 of training and testing')


def test_sheet_of_pictures_of_two_sizes():
    small, large = np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((4, 5, 3), dtype=np.uint8)
    sheet = _sheet([small, large, small], columns=2, gap=1)
    black = (sheet == 0).all(-1)
    assert sheet.shape == (2 * 5, 2 * 6, 3)
    assert black.sum() == 2 * 6 + 20
    assert black[:2, :3].all()
    assert black[:4, 6:11].all()
    assert black[5:7, :3].all()


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
    """The truth as prediction: the map is drawn on both sides, four times as large; or nothing is found."""
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
    pictures = []
    monkeypatch.setattr(run, '_sheet', lambda pairs, columns: pictures.extend(pairs) or _sheet(pairs, columns))
    config = Config({'test_dataloader': {'dataset': dataset_config}})
    draw_predictions(config, tmp_path / 'none.pth', tmp_path / 'sheet.png', num_images=2, columns=1, score_thr=0.5)
    assert (tmp_path / 'sheet.png').read_bytes().startswith(b'\x89PNG')
    for picture in pictures:
        assert picture.shape[0] == 256
        left, right = picture[:, :256], picture[:, picture.shape[1] // 2 :][:, :256]  # two maps, two equal legends
        difference = np.abs(left.astype(int) - right) if left.shape == right.shape else np.full(1, 255)
        assert bool(difference.mean() < 5) is found  # matplotlib may shift the right one by a pixel
