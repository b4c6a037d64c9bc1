"""Pictures of what a DETR looks at."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmdet.structures.bbox import bbox_overlaps

from ..datasets.palette import complete_palette
from ..models.padding import Size
from ..visualization.fonts import draws_names
from .compute import ImageAttention
from .portraits import Portraits

LONGEST = 480  # pixels of an image in a panel: larger ones are drawn smaller
OPACITY = 0.9  # of the cell with the largest weight
PORTRAITS = 20  # queries, as in the paper
ROWS_OF_HEADS = 8  # detections whose heads are drawn, one row each
PEAK = 'full colour: the cell with the largest weight; peak: its share of all weights'
TITLE, GAP, SIDE, MIN_WIDTH = 0.24, 0.08, 0.25, 8.0  # inches: above a panel, between panels, at the sides; of a figure
MANY = 6  # panels in a row, above which they are smaller
Colour = tuple[float, float, float]
Point = tuple[float, float]


def draw_decoder(attention: ImageAttention, layer: int | None = None, head: int | None = None) -> Figure:
    """Where each detection looks in a decoder layer: all in one image, and each in one of its own.

    Args:
        attention: of an image.
        layer: counted from 1; the last by default.
        head: counted from 1; the mean of all by default.

    Raises:
        UserError: there is no such layer or head, or no detection.
    """
    number = attention.decoder_layer(layer)
    panels = _Panels(attention)
    maps = [attention.decoder(query, layer, head, panels.size) for query in attention.queries]
    of_heads = f'mean of {attention.num_heads} heads' if head is None else f'head {head} of {attention.num_heads}'
    heading = f'What each detection looks at: decoder layer {number} of {attention.num_decoder_layers}, {of_heads}'
    figure, axes = panels.grid(len(maps) + 1, f'{heading}\n{PEAK}')
    shown = [(_full(weights), colour) for weights, colour in zip(maps, panels.colours, strict=True)]
    panels.show(axes[0], shown, 'all detections')
    for index, (axis, weights) in enumerate(zip(axes[1:], maps, strict=True)):
        panels.show(axis, [shown[index]], f'{panels.name(index)}, peak {_percent(weights.max())}')
        panels.box(axis, index)
    for index in range(len(maps)):
        panels.box(axes[0], index)
    return figure


def draw_heads(attention: ImageAttention, heads: Sequence[int], layer: int | None = None) -> Figure:
    """Where single heads of a decoder layer look, a row for each of the surest detections.

    Args:
        attention: of an image.
        heads: counted from 1.
        layer: counted from 1; the last by default.

    Raises:
        UserError: there is no such layer or head, or no detection.
    """
    number = attention.decoder_layer(layer)
    panels = _Panels(attention)
    shown = attention.queries[:ROWS_OF_HEADS]
    figure, axes = panels.grid(
        len(heads) * len(shown),
        f'What single heads look at: decoder layer {number} of {attention.num_decoder_layers}{panels.most()}\n{PEAK}',
        columns=len(heads),
    )
    for place, axis in enumerate(axes):
        index, head = place // len(heads), heads[place % len(heads)]
        weights = attention.decoder(shown[index], layer, head, panels.size)
        panels.show(axis, [(_full(weights), panels.colours[index])], f'head {head}, peak {_percent(weights.max())}')
        panels.box(axis, index)
        if place % len(heads) == 0:
            axis.set_ylabel(panels.name(index), fontsize=9)
    return figure


def draw_mask_head(attention: ImageAttention) -> Figure:
    """The attention maps of a mask head, a row for each of the surest detections.

    Raises:
        UserError: the detector has no mask head, or there is no detection.
    """
    panels = _Panels(attention)
    shown = attention.queries[:ROWS_OF_HEADS]
    columns = attention.num_mask_heads + 1
    figure, axes = panels.grid(
        columns * len(shown),
        f'What the mask head makes each mask from: its {attention.num_mask_heads} attention maps{panels.most()}',
        columns=columns,
    )
    for place, axis in enumerate(axes):
        index, head = place // columns, place % columns
        weights = attention.mask_head(shown[index], head or None, panels.size)
        if not head:
            axis.set_ylabel(panels.name(index), fontsize=9)
            brightest = weights.max()  # of all heads, because they share one softmax
            shares = attention.mask_weights(shown[index]).sum(1)
        title = f'head {head}: {_percent(shares[head - 1])} of all' if head else 'sum of all heads'
        panels.show(axis, [(weights / brightest, panels.colours[index])], title)
        panels.box(axis, index)
    return figure


def draw_encoder(
    attention: ImageAttention,
    points: Sequence[Point] | None = None,
    layer: int | None = None,
    head: int | None = None,
) -> Figure:
    """What the encoder takes from the image for the cells at some points.

    Args:
        attention: of an image.
        points: (x, y) in pixels of the image; by default the centres of the detections.
        layer: counted from 1; the last by default.
        head: counted from 1; the mean of all by default.

    Raises:
        UserError: there is no such layer or head; a point is outside; or there is neither a point nor a detection.
    """
    number = attention.encoder_layer(layer)
    panels = _Panels(attention, None if points is None else len(points))
    if points is None:
        boxes = attention.detections.boxes
        points = [(float(x), float(y)) for x, y in (boxes[:, :2] + boxes[:, 2:]) / 2]
    of_heads = f'mean of {attention.num_heads} heads' if head is None else f'head {head} of {attention.num_heads}'
    heading = f'What the encoder relates to a point: layer {number} of {attention.num_encoder_layers}, {of_heads}'
    figure, axes = panels.grid(len(points), f'{heading}\n{PEAK}')
    for axis, (x, y), colour in zip(axes, points, panels.colours, strict=False):
        weights = attention.encoder(x, y, layer, head, panels.size)
        panels.show(axis, [(_full(weights), colour)], f'from {x:.0f},{y:.0f}, peak {_percent(weights.max())}')
        axis.plot(x, y, 'o', color=colour, markersize=7, markeredgecolor='white', markeredgewidth=1.5)
    return figure


def draw_layers(attention: ImageAttention) -> Figure:
    """The boxes of the detections after each decoder layer, in a strip.

    Raises:
        UserError: there is no detection.
    """
    panels = _Panels(attention)
    last = attention.detections
    figure, axes = panels.grid(
        attention.num_decoder_layers,
        'What the decoder layers refine: boxes of the same queries after each layer,\n'
        'their mean score and mean IoU with the boxes of the last; dashed where the class is another one',
        columns=min(attention.num_decoder_layers, MANY),
    )
    for number, (axis, layer) in enumerate(zip(axes, attention.layers, strict=True), start=1):
        result = layer.take(attention.queries)
        overlaps = bbox_overlaps(torch.from_numpy(result.boxes), torch.from_numpy(last.boxes), is_aligned=True)
        panels.show(axis, [], f'layer {number}: score {result.scores.mean():.2f}, IoU {overlaps.mean():.2f}')
        for index, box in enumerate(result.boxes):
            changed = result.labels[index] != last.labels[index]
            panels.box(axis, index, box, dashed=bool(changed))
    return figure


def draw_portraits(portraits: Portraits, score_thr: float = 0.5) -> Figure:
    """Centres of all boxes of the queries that find the most; colours tell sizes, see :func:`size_colours`.

    Args:
        portraits: of a data set.
        score_thr: boxes with at least this score are counted as found.
    """
    queries = portraits.busiest(PORTRAITS, score_thr)
    found = (portraits.scores >= score_thr).sum(0)
    columns = min(5, len(queries))
    rows = math.ceil(len(queries) / columns)
    figure = Figure(figsize=(max(2.1 * columns, MIN_WIDTH), 2.3 * rows + 0.7), layout='constrained')
    figure.suptitle(
        f'Where {len(queries)} of {portraits.boxes.shape[1]} queries put their boxes in {len(portraits.boxes)} images\n'
        'green: small, red: wide, blue: high, magenta: large both ways; '
        f'found: boxes with a score from {score_thr:g} on',
        fontsize=11,
    )
    for axis, query in zip(figure.subplots(rows, columns, squeeze=False).ravel(), queries, strict=False):
        x, y, width, height = portraits.boxes[:, query].T
        axis.scatter(x, y, s=4, c=size_colours(width, height), linewidths=0)
        axis.set(xlim=(0, 1), ylim=(1, 0), xticks=(), yticks=(), aspect='equal')
        axis.set_title(f'query {query}: {found[query]} found', fontsize=9)
    for axis in figure.axes[len(queries) :]:
        axis.set_axis_off()
    return figure


def size_colours(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Colours (N, 3), RGB from 0 to 1, of boxes by their sides (N,) in units of the image, as in paper figure 7.

    Small boxes are green, wide ones red, high ones blue, and those as large as the image magenta.
    """
    return np.stack((width, 1 - np.maximum(width, height), height), axis=1).clip(0, 1)


class _Panels:
    """Panels with the image of an attention, maps in the colours of detections, and boxes.

    Args:
        attention: of an image.
        count: of the colours; by default that of the detections, of which there has to be one.
    """

    def __init__(self, attention: ImageAttention, count: int | None = None) -> None:
        if count is None:
            attention.require_detections()
        self.attention = attention
        self.found = attention.detections
        number = len(self.found) if count is None else count
        self.colours: list[Colour] = [(r / 255, g / 255, b / 255) for r, g, b in complete_palette((), number)]
        height, width = attention.size
        factor = min(1.0, LONGEST / max(height, width))
        self.size: Size = (max(1, round(height * factor)), max(1, round(width * factor)))
        small = cv2.resize(attention.image, self.size[::-1], interpolation=cv2.INTER_AREA)[..., ::-1] / 255
        self.plain = small
        self.dimmed = (0.3 * small + 0.7 * small.mean(2, keepdims=True)) * 0.6  # colours are those of the detections

    @draws_names
    def grid(self, count: int, heading: str, columns: int | None = None) -> tuple[Figure, list[Axes]]:
        """A figure with a heading and ``count`` axes; places are in inches, because a layout engine takes seconds."""
        columns = self.columns = columns or min(count, 4)
        rows = math.ceil(count / columns)
        height, width = self.size
        panel_width = (2.6 if columns <= MANY else 1.7) * min(1.5, max(0.7, width / height)) ** 0.5
        panel_height = panel_width * height / width
        top = 0.12 + 0.2 * (heading.count('\n') + 1)
        row_height = TITLE + panel_height + GAP
        sheet = (max(columns * (panel_width + GAP) + 2 * SIDE, MIN_WIDTH), top + rows * row_height + GAP)
        figure = Figure(figsize=sheet)
        figure.text(0.5, 1 - 0.08 / sheet[1], heading, ha='center', va='top', fontsize=11)
        left = (sheet[0] - columns * (panel_width + GAP) + GAP) / 2
        axes = []
        for place in range(count):
            row, column = divmod(place, columns)
            x = left + column * (panel_width + GAP)
            y = sheet[1] - top - row * row_height - TITLE - panel_height
            axes.append(
                figure.add_axes(
                    (x / sheet[0], y / sheet[1], panel_width / sheet[0], panel_height / sheet[1]), xticks=(), yticks=()
                )
            )
        return figure, axes

    @draws_names
    def show(self, axis: Axes, maps: Sequence[tuple[np.ndarray, Colour]], title: str) -> None:
        """The image, dimmed below maps between 0 and 1 in their colours."""
        picture = self.dimmed if maps else self.plain
        for weights, colour in maps:
            opacity = OPACITY * weights[..., None]
            picture = (1 - opacity) * picture + opacity * np.array(colour)
        height, width = self.attention.size
        axis.imshow(picture.clip(0, 1), extent=(0, width, height, 0), interpolation='nearest')
        axis.set(xlim=(0, width), ylim=(height, 0), aspect='auto')
        axis.set_title(title, fontsize=9 if self.columns <= MANY else 7.5, pad=3)

    def box(self, axis: Axes, index: int, box: np.ndarray | None = None, dashed: bool = False) -> None:
        """A box in the colour of a detection, by default its own."""
        left, top, right, bottom = self.found.boxes[index] if box is None else box
        style = '--' if dashed else '-'
        for colour, line in (('white', 2.6), (self.colours[index], 1.6)):
            axis.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, lw=line, ls=style)
            )

    def name(self, index: int) -> str:
        name = self.found.names[index]
        return f'{name if len(name) <= 16 else f"{name[:15]}…"} {self.found.scores[index]:.2f}'

    def most(self) -> str:
        """What a heading says where not all detections have a row."""
        count = len(self.found)
        return f'\nthe {ROWS_OF_HEADS} surest of {count} detections' if count > ROWS_OF_HEADS else ''


def _full(weights: np.ndarray) -> np.ndarray:
    """A map whose largest weight is 1."""
    return weights / weights.max()


def _percent(share: float) -> str:
    """A share with two digits, as in 14%, 1.4% and 0.14%."""
    percent = 100 * share
    if percent < 0.005:
        return '<0.01%'
    return f'{percent:.{0 if percent >= 10 else 1 if percent >= 1 else 2}f}%'
