"""Pictures of an evaluation."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..visualization.fonts import draws_names
from .errors import ErrorKind
from .thresholds import Operation, ScoreCurve

NAMED = 10  # classes that have a colour each; more get a small picture each
NUMBERED = 30  # classes up to which the cells of the confusion matrix are large enough for any number
RECALLS = np.linspace(0, 1, 101)
TRUE_COLOR, FOUND_COLOR = '#00b7ff', '#ff4d1c'
MISSED_LABEL, BACKGROUND_LABEL = '(missed)', '(background)'


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)


def _shorten(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f'{name[: most - 1]}…'


@draws_names
def draw_precision_recall(precision: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw precision over recall of all classes at three IoUs, and of each class at an IoU of 0.5.

    Args:
        precision: pycocotools' precision (10, 101, K) at ten IoUs and 101 recalls; -1 for a class without an object.
        names: K names.
        path: PNG file.
    """
    figure = Figure(figsize=(11, 4.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    present = np.flatnonzero((precision > -1).all((0, 1)))
    for place, iou in ((0, 0.5), (5, 0.75), (8, 0.9)):
        mean = precision[place][:, present].mean(1)
        left.plot(RECALLS, mean, label=f'AP at IoU {iou:.2f}: {mean.mean():.3f}')
    left.set_title('mean of the classes')
    aps = precision[0].mean(0)
    for label in present:
        named = len(present) <= NAMED
        text = f'{aps[label]:.3f}  {_shorten(names[label])}' if named else None
        right.plot(RECALLS, precision[0, :, label], label=text, **({} if named else {'color': '0.6', 'lw': 0.8}))
    right.set_title('AP50 of each class')
    if len(present) > NAMED:
        right.plot(RECALLS, precision[0][:, present].mean(1), color='tab:blue', lw=2, label='their mean')
    for axis in (left, right):
        axis.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        many = len(axis.lines) > 3
        axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=2 if many else 3, fontsize='small')
    _save(figure, path)


@draws_names
def draw_class_curves(precision: np.ndarray, names: Sequence[str], path: Path, columns: int = 10) -> None:
    """Draw precision over recall at an IoU of 0.5 of each class in a small picture of its own, the best class first.

    Args:
        precision: pycocotools' precision (10, 101, K).
        names: K names.
        path: PNG file.
        columns: pictures in a row.
    """
    present = np.flatnonzero((precision > -1).all((0, 1)))
    aps = precision[0].mean(0)
    order = present[np.argsort(-aps[present], kind='stable')]
    rows = math.ceil(len(order) / columns)
    figure = Figure(figsize=(1.35 * columns, 1.45 * rows + 0.3), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, label in zip(axes, order, strict=False):
        axis.fill_between(RECALLS, precision[0, :, label], color='tab:blue', alpha=0.25, lw=0)
        axis.plot(RECALLS, precision[0, :, label], color='tab:blue', lw=1)
        axis.set_title(f'{_shorten(names[label], 14)}\n{aps[label]:.2f}', fontsize=8)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 1), yticks=(0, 1))
        axis.tick_params(labelsize=7)
    for axis in axes[len(order) :]:
        axis.set_axis_off()
    figure.supxlabel('recall', fontsize=9)
    figure.supylabel('precision', fontsize=9)
    _save(figure, path)


def draw_thresholds(curve: ScoreCurve, best: Operation | None, path: Path) -> None:
    """Draw precision, recall and F1 of all classes together over the score threshold.

    Args:
        curve: the three by score.
        best: the threshold to mark.
        path: PNG file.
    """
    figure = Figure(figsize=(7, 3.8), layout='constrained')
    axis = figure.subplots()
    for name, values, color in (
        ('precision: share of the detections that are right', curve.precision, 'tab:orange'),
        ('recall: share of the objects that are found', curve.recall, 'tab:blue'),
        ('F1: their harmonic mean', curve.f1, 'tab:green'),
    ):
        axis.plot(curve.scores, values, label=name, color=color, drawstyle='steps-post')
    if best:
        axis.axvline(best.threshold, color='0.3', ls='--', label=f'best F1 {best.f1:.3f} at {best.threshold:.2f}')
    axis.set(xlabel='score threshold', xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    figure.legend(loc='outside lower center', ncols=2, fontsize='small', frameon=False)
    _save(figure, path)


@draws_names
def draw_confusion(matrix: np.ndarray, names: Sequence[str], threshold: float, iou: float, path: Path) -> None:
    """Draw a confusion matrix, each row coloured by its shares, background by its shares of the detections.

    Args:
        matrix: counts (K + 1, K + 1) of :func:`~mmdet_detr.evaluation.confusion.confusion_matrix`.
        names: K names.
        threshold: lowest score of the detections.
        iou: IoU above which an object and a detection belong together.
        path: PNG file.
    """
    count = len(matrix)
    cell = 0.55 if count <= 12 else 0.34 if count <= NUMBERED else 0.23
    size = 8 if count <= NUMBERED else 6
    names = [_shorten(name) for name in names]
    margin = 0.075 * size / 6 * max([len(name) for name in names] + [len(BACKGROUND_LABEL)]) + 0.5
    side = max(3.2, cell * count)
    figure = Figure(figsize=(max(side + margin + 0.9, 6.4), side + margin + 0.6), layout='constrained')
    axis = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    shares[-1] = matrix[-1] / np.maximum(matrix.sum(0), 1)
    drawn = axis.imshow(shares, cmap='Blues', norm=PowerNorm(0.5, 0, 1))  # few confusions of a class can be seen
    columns, rows = [*names, MISSED_LABEL], [*names, BACKGROUND_LABEL]
    axis.set_xticks(range(count), columns, rotation=90 if count > 8 else 30, ha='center' if count > 8 else 'right')
    axis.set_yticks(range(count), rows)
    axis.tick_params(labelsize=size, length=0)
    if count > NUMBERED:  # far from the labels otherwise
        axis.tick_params(labelright=True, labeltop=True)
        axis.set_xticks(range(count), columns, rotation=90)
    axis.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axis.grid(which='minor', color='0.9', lw=0.4)
    axis.tick_params(which='minor', length=0)
    for edge in (axis.axhline, axis.axvline):
        edge(count - 1.5, color='0.3', lw=1)
    for row, column in zip(*matrix.nonzero(), strict=True):
        number = int(matrix[row, column])
        text = str(number) if count <= NUMBERED or number < 1000 else f'{number // 1000}k'
        small = 9 if count <= 12 else 7 if count <= NUMBERED else 5
        color = 'white' if shares[row, column] > 0.3 else 'black'
        axis.text(column, row, text, ha='center', va='center', fontsize=small, color=color)
    axis.set_title(f'score from {threshold:.2f}, IoU above {iou:g}', fontsize=10)
    axis.set_xlabel('detected as')
    axis.set_ylabel('true class')
    figure.colorbar(drawn, ax=axis, shrink=0.6, label='share of the row; of the column for background')
    figure.savefig(path, dpi=100, bbox_inches='tight')


def draw_costs(gains: dict[ErrorKind, float], path: Path) -> None:
    """Draw what each kind of error costs.

    Args:
        gains: AP50 gained by mending a kind.
        path: PNG file.
    """
    figure = Figure(figsize=(8, 2.8), layout='constrained')
    axis = figure.subplots()
    kinds = list(gains)[::-1]
    bars = axis.barh([f'{kind.label}: {kind.meaning}' for kind in kinds], [gains[kind] for kind in kinds])
    axis.bar_label(bars, [f'{gains[kind]:.3f}' for kind in kinds], padding=3)
    axis.set(xlabel='AP50 that mending it would gain', xlim=(0, max(0.01, 1.18 * max(gains.values()))))
    _save(figure, path)


class Case(NamedTuple):
    """An error to be drawn."""

    path: str  # of the image
    title: str
    found: np.ndarray | None  # xyxy box of the detection
    concerned: np.ndarray | None  # xyxy box of the object that the error is about
    others: np.ndarray  # (M, 4) boxes of all objects in the image
    rival: np.ndarray | None = None  # xyxy box of a better detection of the object


@draws_names
def draw_cases(cases: Sequence[Case], path: Path, columns: int = 4) -> None:
    """Draw the surroundings of errors: objects in blue, detections dashed in red.

    Args:
        cases: the errors.
        path: JPG file.
        columns: pictures in a row.
    """
    rows = math.ceil(len(cases) / columns)
    figure = Figure(figsize=(2.8 * columns, 3.2 * rows + 0.2), layout='constrained')
    for axis, case in zip(figure.subplots(rows, columns, squeeze=False).ravel(), cases, strict=False):
        _draw_case(axis, case)
    for axis in figure.axes[len(cases) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=90, pil_kwargs={'quality': 85})


def _draw_case(axis: Axes, case: Case) -> None:
    image = mmcv.imread(case.path, channel_order='rgb')
    boxes = [box for box in (case.found, case.concerned) if box is not None]
    low, high = np.min([box[:2] for box in boxes], axis=0), np.max([box[2:] for box in boxes], axis=0)
    (x, y), half = (low + high) / 2, max(0.9 * (high - low).max(), 16)
    left, top = (int(max(0, edge)) for edge in (x - half, y - half))
    part = image[top : math.ceil(max(y + half, top + 1)), left : math.ceil(max(x + half, left + 1))]
    if part.size:  # else the box is outside the image
        extent = (left, left + part.shape[1], top + part.shape[0], top)
        axis.imshow(part, extent=extent, interpolation='nearest')
    for box in case.others:
        _outline(axis, box, TRUE_COLOR, 1.0, '-')
    if case.rival is not None:
        _outline(axis, case.rival, FOUND_COLOR, 1.0, '-')
    if case.concerned is not None:
        _outline(axis, case.concerned, TRUE_COLOR, 2.5, '-')
    if case.found is not None:
        _outline(axis, case.found, FOUND_COLOR, 2.5, '--')
    axis.set(xlim=(x - half, x + half), ylim=(y + half, y - half), xticks=(), yticks=(), facecolor='0.9')
    axis.set_title(f'{case.title}\n{_shorten(Path(case.path).name, 34)}', fontsize=8)


def _outline(axis: Axes, box: np.ndarray, color: str, width: float, style: str) -> None:
    left, top, right, bottom = box
    axis.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color=color, lw=width, ls=style, clip_on=True)
    )
