"""Draws the pictures of a run from its folder, and sums up its results in one line."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import supervision
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from mmcv.transforms import BaseTransform
from mmcv.transforms import LoadAnnotations as MMCVLoadAnnotations
from mmdet.apis import inference_detector, init_detector
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import DATASETS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from ..datasets import LoadPanopticSegments
from ..datasets.palette import complete_palette
from ..visualization import PanopticVisualizer
from .sheet import MAX_IN_LEGEND, Pair, draw_boxes, sheet

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
SHOWN_SIZE = 288  # pixels of the longer side of an image on the sheet
MAX_SCORES = 10  # detections in an image that are drawn with their scores


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
    figure = Figure(figsize=(10, 3.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.plot(scalars.steps, scalars.losses, color='tab:blue')
    left.set(title='training loss', xlabel='iteration')
    if max(scalars.losses) > 5 * min(scalars.losses) > 0:  # of a smaller range, a log axis has too few ticks
        left.set_yscale('log')
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
        left.yaxis.set_minor_formatter(NullFormatter())
    for name, values in scalars.results.items():
        right.plot(scalars.val_steps, values, marker='o', markersize=4, label=name, clip_on=False)
    right.set(title='results on held-out images', xlabel='iteration', xlim=left.get_xlim(), ylim=(0, 1))
    if scalars.results:
        right.legend(loc='upper left', bbox_to_anchor=(1.01, 1), frameon=False)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
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
    classes = dataset.metainfo['classes']
    given = dataset.metainfo.get('palette', ())
    palette = complete_palette(() if isinstance(given, str) else given, len(classes))
    visualizer = VISUALIZERS.build({'type': 'mmdet_detr.PanopticVisualizer', 'name': 'report'})
    visualizer.dataset_meta = {**dataset.metainfo, 'palette': palette}
    indices = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int)
    transforms = dataset.pipeline.transforms if hasattr(dataset, 'pipeline') else []
    shown = []
    for index in track(indices, description='drawing'):
        info = dataset.get_data_info(int(index))
        sample = inference_detector(model, info['img_path']).cpu()
        sample.gt_instances = _truth(info, transforms)
        sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= score_thr]
        image = _resize(mmcv.imread(info['img_path'], channel_order='rgb'), sample)
        shown.append((info['img_path'], image, sample))
    used = sorted({label for *_, sample in shown for label in _labels(sample, len(classes))})
    maps = any('pred_panoptic_seg' in sample for *_, sample in shown)  # they have no other place for names
    names = classes if len(used) > MAX_IN_LEGEND and not maps else None
    pairs = []
    for name, image, sample in shown:
        if 'pred_panoptic_seg' in sample:
            pairs.append(Pair(Path(name).name, *_maps(visualizer, image, sample)))
        else:
            truth, found = (
                draw_boxes(image, _detections(objects), palette, _texts(objects, names))
                for objects in (sample.gt_instances, sample.pred_instances)
            )
            pairs.append(Pair(Path(name).name, truth, found))
    legend = [] if names else [(classes[label], palette[label]) for label in used]
    picture = sheet(pairs, columns, legend, f'score ≥ {score_thr:g}')
    mmcv.imwrite(picture[..., ::-1], str(path))


def _labels(sample: DetDataSample, num_classes: int) -> list[int]:
    """Labels of what is drawn of a sample."""
    labels = sample.gt_instances.labels.tolist()
    if 'pred_panoptic_seg' not in sample:
        return labels + sample.pred_instances.labels.tolist()
    found = {value % INSTANCE_OFFSET for value in np.unique(sample.pred_panoptic_seg.sem_seg).tolist()}
    return labels + [label for label in found if label < num_classes]


def _detections(objects: InstanceData) -> supervision.Detections:
    masks = objects.get('masks')
    return supervision.Detections(
        xyxy=objects.bboxes.numpy().reshape(-1, 4),
        mask=None if masks is None or not len(masks) else masks.numpy().astype(bool),
        class_id=objects.labels.numpy(),
    )


def _texts(objects: InstanceData, names: Sequence[str] | None) -> list[str]:
    """Class, where the legend does not say it, and score in per cent, where scores do not hide the image."""
    few = 'scores' in objects and len(objects) <= MAX_SCORES
    scores = [f'{100 * score:.0f}' for score in objects.scores.tolist()] if few else [''] * len(objects)
    labels = [names[label] if names else '' for label in objects.labels.tolist()]
    return [' '.join(filter(None, parts)) for parts in zip(labels, scores, strict=True)]


def _maps(visualizer: PanopticVisualizer, image: np.ndarray, sample: DetDataSample) -> list[np.ndarray]:
    """The maps of the truth and of the prediction, without their legends."""
    pictures = []
    for of_truth in (True, False):
        visualizer.add_datasample('report', image, sample, draw_gt=of_truth, draw_pred=not of_truth)
        pictures.append(visualizer.get_image()[:, : image.shape[1]])
    return pictures


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


def _resize(image: np.ndarray, sample: DetDataSample) -> np.ndarray:
    """The image with a longer side of ``SHOWN_SIZE``; boxes, masks and the map of the sample follow in place."""
    height, width = image.shape[:2]
    factor = SHOWN_SIZE / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))

    def resized(pixels: Tensor) -> Tensor:
        return functional.interpolate(pixels[:, None].float(), size, mode='nearest-exact')[:, 0].to(pixels.dtype)

    for instances in (sample.gt_instances, sample.pred_instances):
        masks = instances.pop('masks', None)
        instances.bboxes = instances.bboxes * factor
        if masks is not None:
            instances.masks = resized(masks)
    if 'pred_panoptic_seg' in sample:
        sample.pred_panoptic_seg = PixelData(sem_seg=resized(sample.pred_panoptic_seg.sem_seg))
    return mmcv.imresize(image, size[::-1], interpolation='area' if factor < 1 else 'bicubic')


def summarise(work_dir: Path) -> str:
    """Results of the latest test, the time of all runs in the folder, and the folder, in one line."""
    files = sorted(work_dir.glob('[0-9]*/[0-9]*.json'))  # mmengine's; other folders of a run hold other files
    tests = [found for path in files if (found := _results(json.loads(path.read_text())))]
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
