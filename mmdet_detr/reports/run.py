"""Draws the pictures of a run from its folder, and sums up its results in one line."""

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmcv.transforms import BaseTransform
from mmcv.transforms import LoadAnnotations as MMCVLoadAnnotations
from mmdet.apis import inference_detector, init_detector
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from rich.progress import track
from torch import Tensor

from ..datasets import LoadPanopticSegments

# Results in curves and in the line of results: last part of the name in the log, name here, value of a perfect model.
RESULTS = (
    ('bbox_mAP', 'AP', 1),
    ('bbox_mAP_50', 'AP50', 1),
    ('segm_mAP', 'mask AP', 1),
    ('bbox_AP', 'AP', 1),  # LVIS
    ('segm_AP', 'mask AP', 1),
    ('mAP', 'mAP', 1),  # Pascal VOC and others
    ('PQ', 'PQ', 100),
    ('PQ_th', 'PQ things', 100),
    ('PQ_st', 'PQ stuff', 100),
)
METRICS = ('coco', 'coco_panoptic', 'lvis', 'pascal_voc')  # that stand before a name where the config gives no prefix
SHOWN_SIZE = 256  # pixels: narrower images are enlarged by the largest whole number that does not exceed this width


class Scalars(NamedTuple):
    """Training losses of a run, and results of its evaluations."""

    steps: list[int]  # iterations of the losses
    losses: list[float]
    val_steps: list[int]  # iterations of the evaluations
    results: dict[str, list[float]]  # by their names here, of those that were evaluated; 1 is perfect


def read_scalars(work_dir: Path) -> Scalars:
    """Read the scalars of all training runs in a folder. A later run continues an earlier one or replaces it.

    mmengine logs evaluations with the number of the epoch, which is always 0 in a run by iterations. So an evaluation
    gets the number of the last iteration that was logged before it.

    Raises:
        FileNotFoundError: the folder has no log of a training run.
    """
    train: dict[int, float] = {}
    val: dict[int, dict[str, float]] = {}
    latest = 0
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        first = True
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                latest = entry['iter']
                if first and train and latest <= min(train):  # this run did not resume the earlier ones
                    train.clear()
                    val.clear()
                first = False
                train[latest] = entry['loss']
            elif train and (results := {name: value / best for name, value, best in _known(entry)}):
                val[latest] = results
    if not train:
        missing = f'no scalars.json of a training run below {work_dir}'
        raise FileNotFoundError(f'{missing}: train with this folder as --work-dir first')
    steps, val_steps = sorted(train), sorted(val)
    fullest_first = sorted(val.values(), key=len, reverse=True)  # it has most names in their order
    names = dict.fromkeys(name for values in fullest_first for name in values)
    curves = {name: [val[step].get(name, math.nan) for step in val_steps] for name in names}
    return Scalars(steps, [train[step] for step in steps], val_steps, curves)


def draw_curve(scalars: Scalars, path: Path) -> None:
    """Draw the loss and the results of a run as a PNG file; PQ is drawn as a share of 1, like AP."""
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.plot(scalars.steps, scalars.losses, color='tab:blue')
    left.set(xlabel='iteration', ylabel='training loss', yscale='log')
    for name, values in scalars.results.items():
        right.plot(scalars.val_steps, values, marker='o', label=name)
    right.set(xlabel='iteration', ylabel='on held-out images', ylim=(0, 1))
    if scalars.results:
        right.legend(loc='lower right')
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_predictions(
    config: Config, checkpoint: Path, path: Path, num_images: int, columns: int, score_thr: float
) -> None:
    """Draw a sheet of test images as a PNG file, each with the truth on the left and the prediction on the right.

    A model that predicts panoptic maps is shown with these, another one with its boxes and masks. The images are
    spread evenly over the test set. Boxes and masks with a lower score than ``score_thr`` are not drawn.
    """
    init_default_scope(config.get('default_scope', 'mmdet'))
    model = init_detector(config, str(checkpoint), device='cpu')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    visualizer = VISUALIZERS.build({'type': 'mmdet_detr.PanopticVisualizer', 'name': 'report'})
    visualizer.dataset_meta = dataset.metainfo
    indices = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int)
    transforms = dataset.pipeline.transforms if hasattr(dataset, 'pipeline') else []
    pairs = []
    for index in track(indices, description='drawing'):
        info = dataset.get_data_info(int(index))
        sample = inference_detector(model, info['img_path']).cpu()
        sample.gt_instances = _truth(info, transforms)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        factor = max(1, SHOWN_SIZE // image.shape[1])
        image = mmcv.imrescale(image, factor, interpolation='bicubic')
        _enlarge(sample, factor)
        visualizer.add_datasample('report', image, sample, pred_score_thr=score_thr)
        pairs.append(visualizer.get_image())
    mmcv.imwrite(_sheet(pairs, columns)[..., ::-1], str(path))


def _truth(info: dict[str, Any], transforms: list[BaseTransform]) -> InstanceData:
    """The objects of an image in its original size, as those among the transforms that read annotations give them.

    Without one, all segments of a panoptic data set, and boxes of another.
    """
    loaders = [t for t in transforms if isinstance(t, MMCVLoadAnnotations | LoadPanopticSegments)]
    if not loaders:
        loaders = [LoadPanopticSegments() if info.get('seg_map_path') else LoadAnnotations()]
    size = (info['height'], info['width'])
    loaded = {**info, 'img_shape': size, 'ori_shape': size}
    for loader in loaders:
        loaded = loader(loaded)
    truth = InstanceData(bboxes=loaded['gt_bboxes'].tensor, labels=torch.from_numpy(loaded['gt_bboxes_labels']))
    if 'gt_masks' in loaded:
        truth.masks = torch.from_numpy(loaded['gt_masks'].to_ndarray())
    return truth[torch.from_numpy(~loaded['gt_ignore_flags'])]


def _enlarge(sample: DetDataSample, factor: int) -> None:
    """Enlarge boxes, masks and the map of a sample in place."""

    def enlarged(pixels: Tensor) -> Tensor:
        return pixels.repeat_interleave(factor, -1).repeat_interleave(factor, -2)

    for instances in (sample.gt_instances, sample.pred_instances):
        masks = instances.pop('masks', None)
        instances.bboxes = instances.bboxes * factor
        if masks is not None:
            instances.masks = enlarged(masks)
    if 'pred_panoptic_seg' in sample:
        sample.pred_panoptic_seg = PixelData(sem_seg=enlarged(sample.pred_panoptic_seg.sem_seg))


def _sheet(pictures: list[np.ndarray], columns: int, gap: int = 12) -> np.ndarray:
    """Pictures (H, W, 3), row by row on a white sheet, with a gap in pixels between them."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap), 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def summarise(work_dir: Path) -> str:
    """Results of the latest test, the time of all runs in the folder, and the folder, in one line."""
    tests = [found for path in sorted(work_dir.glob('*/*.json')) if (found := _results(json.loads(path.read_text())))]
    if not tests:
        return f'not tested yet; curve.png and predictions.png are in {work_dir}'
    duration = sum((_duration(log.read_text()) for log in work_dir.glob('*/*.log')), start=timedelta())
    return (
        f'{", ".join(tests[-1])}, {duration} of training '
        f'and testing; log, checkpoint, curve.png and predictions.png are in {work_dir}'
    )


def _results(metrics: dict[str, float]) -> list[str]:
    """Results as texts, AP between 0 and 1, PQ in per cent."""
    return [f'{name} {value:.{3 if best == 1 else 1}f}' for name, value, best in _known(metrics)]


def _known(metrics: dict[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Name, value and perfect value of the results that curves show, in the order of RESULTS.

    A prefix of the config, or of one of several data sets, stands behind the name: ``night/coco/bbox_mAP`` is AP night.
    """
    for last, name, best in RESULTS:
        for key, value in metrics.items():
            *prefixes, end = key.split('/')
            if end == last:
                yield ' '.join([name, *(part for part in prefixes if part not in METRICS)]), value, best


def _duration(log: str) -> timedelta:
    """Time from the first to the last entry of an mmengine log."""
    texts = re.findall(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - mmengine', log, re.MULTILINE)
    times = [datetime.strptime(text, '%Y/%m/%d %H:%M:%S') for text in texts]
    return times[-1] - times[0] if times else timedelta()
