"""Draws the pictures of a run from its folder, and sums up its results in one line."""

import json
import math
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS, VISUALIZERS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from rich.progress import track

SHOWN_SIZE = 256  # pixels: narrower images are enlarged by the largest whole number that does not exceed this width


class Scalars(NamedTuple):
    """Training losses of a run, and COCO box AP and AP50 of its evaluations."""

    steps: list[int]  # iterations of the losses
    losses: list[float]
    val_steps: list[int]  # iterations of the evaluations
    ap: list[float]
    ap50: list[float]


def read_scalars(work_dir: Path) -> Scalars:
    """Read the scalars of all training runs in a folder. A later run continues an earlier one or replaces it.

    mmengine logs evaluations with the number of the epoch, which is always 0 in a run by iterations. So an evaluation
    gets the number of the last iteration that was logged before it.

    Raises:
        FileNotFoundError: the folder has no log of a training run.
    """
    train: dict[int, float] = {}
    val: dict[int, tuple[float, float]] = {}
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
            elif 'coco/bbox_mAP' in entry and train:
                val[latest] = (entry['coco/bbox_mAP'], entry['coco/bbox_mAP_50'])
    if not train:
        missing = f'no scalars.json of a training run below {work_dir}'
        raise FileNotFoundError(f'{missing}: train with this folder as --work-dir first')
    steps, val_steps = sorted(train), sorted(val)
    ap, ap50 = ([val[step][i] for step in val_steps] for i in (0, 1))
    return Scalars(steps, [train[step] for step in steps], val_steps, ap, ap50)


def draw_curve(scalars: Scalars, path: Path) -> None:
    """Draw the loss and the AP of a run as a PNG file."""
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.plot(scalars.steps, scalars.losses, color='tab:blue')
    left.set(xlabel='iteration', ylabel='training loss', yscale='log')
    for values, name in ((scalars.ap, 'AP (0.50:0.95)'), (scalars.ap50, 'AP50')):
        right.plot(scalars.val_steps, values, marker='o', label=name)
    right.set(xlabel='iteration', ylabel='COCO box AP on held-out images', ylim=(0, 1))
    right.legend(loc='lower right')
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_predictions(
    config: Config, checkpoint: Path, path: Path, num_images: int, columns: int, score_thr: float
) -> None:
    """Draw a sheet of test images as a PNG file, each with the truth on the left and the detections on the right.

    The images are spread evenly over the test set. Detections with a lower score than ``score_thr`` are not drawn.
    """
    init_default_scope(config.get('default_scope', 'mmdet'))
    model = init_detector(config, str(checkpoint), device='cpu')
    dataset = DATASETS.build(config.test_dataloader.dataset)
    visualizer = VISUALIZERS.build({'type': 'DetLocalVisualizer', 'name': 'report'})
    visualizer.dataset_meta = dataset.metainfo
    indices = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int)
    pairs = []
    for index in track(indices, description='drawing'):
        info = dataset.get_data_info(int(index))
        sample = inference_detector(model, info['img_path'])
        truth = [instance for instance in info['instances'] if not instance['ignore_flag']]
        boxes = torch.tensor([instance['bbox'] for instance in truth], dtype=torch.float32).view(-1, 4)
        labels = torch.tensor([instance['bbox_label'] for instance in truth], dtype=torch.long)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        factor = max(1, SHOWN_SIZE // image.shape[1])
        image = mmcv.imrescale(image, factor, interpolation='bicubic')
        for instances in (sample.gt_instances, sample.pred_instances):
            instances.bboxes = instances.bboxes * factor
        visualizer.add_datasample('report', image, sample.cpu(), pred_score_thr=score_thr)
        pairs.append(visualizer.get_image())
    mmcv.imwrite(_sheet(pairs, columns)[..., ::-1], str(path))


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
    """AP and AP50 of the latest test, the time of all runs in the folder, and the folder, in one line."""
    tests = [path for path in sorted(work_dir.glob('*/*.json')) if 'coco/bbox_mAP' in json.loads(path.read_text())]
    if not tests:
        return f'not tested yet; curve.png and predictions.png are in {work_dir}'
    metrics = json.loads(tests[-1].read_text())
    duration = sum((_duration(log.read_text()) for log in work_dir.glob('*/*.log')), start=timedelta())
    return (
        f'AP {metrics["coco/bbox_mAP"]:.3f}, AP50 {metrics["coco/bbox_mAP_50"]:.3f}, {duration} of training '
        f'and testing; log, checkpoint, curve.png and predictions.png are in {work_dir}'
    )


def _duration(log: str) -> timedelta:
    """Time from the first to the last entry of an mmengine log."""
    texts = re.findall(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - mmengine', log, re.MULTILINE)
    times = [datetime.strptime(text, '%Y/%m/%d %H:%M:%S') for text in texts]
    return times[-1] - times[0] if times else timedelta()
