"""Draws detections on images."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import supervision as sv

from ..datasets.palette import Colour, complete_palette
from ..visualization.fonts import font, font_file
from ..visualization.legend import draw_legend
from ..visualization.panoptic_visualizer import draw_map
from .result import Result

SHOWN_SIZE = 480  # pixels: smaller images are enlarged by the largest whole number that does not exceed it
TEXT_SHARE = 1 / 45  # height of letters relative to the shorter side of the picture, within these bounds in pixels
MIN_TEXT, MAX_TEXT = 11, 32
LINE_SHARE = 1 / 300  # width of lines, likewise
MAX_LABELS = 0.2  # of the picture that names may cover
MASK_OPACITY = 0.45


class Painter:
    """Draws results: boxes with names and scores, masks below them; or the panoptic map with a legend on the right.

    In a crowded picture, the surest boxes have names, and the others the colours of their classes alone.

    Args:
        classes: names of the classes.
        palette: a colour of each; distinct ones by default.
    """

    def __init__(self, classes: Sequence[str], palette: Sequence[Colour] | None = None) -> None:
        self.classes = classes
        self.colours = complete_palette(palette or (), len(classes))

    def draw(self, image: np.ndarray, result: Result, legend_width: int | None = None) -> np.ndarray:
        """Draw what was found.

        Args:
            image: (H, W, 3) BGR, not changed. Images below 480 pixels are enlarged by a whole number, so that names
                can be read.
            result: of the image.
            legend_width: of a panoptic map, in pixels; by default as wide as its texts. The pictures of a video have
                to be of one width.

        Returns:
            (H', W', 3) uint8 BGR.
        """
        factor = enlargement(image)
        picture: Any = cv2.resize(_uint8(image), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        if result.panoptic is not None:
            return self._draw_map(picture, _enlarged(result.panoptic, factor), legend_width)
        result = result.take(np.arange(len(result))[::-1])  # the surest come last, on top of the others
        detections = _detections(result, factor)
        shorter = min(picture.shape[:2])
        colours, texts = _palette(self.colours), _palette([_readable_on(colour) for colour in self.colours])
        if result.masks is not None:
            picture = sv.MaskAnnotator(colours, opacity=MASK_OPACITY).annotate(picture, detections)
        width = max(1, round(shorter * LINE_SHARE))
        picture = sv.BoxAnnotator(colours, thickness=width).annotate(picture, detections)
        size = round(min(max(shorter * TEXT_SHARE, MIN_TEXT), MAX_TEXT))
        padding = max(2, size // 5)
        names = [f'{name} {score:.2f}' for name, score in zip(result.names, result.scores, strict=True)]
        letters = font(size, names)
        areas = [(letters.getlength(name) + 2 * padding) * (size + 2 * padding) for name in names]
        named = np.cumsum(areas[::-1])[::-1] <= MAX_LABELS * picture.shape[0] * picture.shape[1]
        labels = sv.RichLabelAnnotator(
            color=colours,
            text_color=texts,
            font_path=font_file(names),
            font_size=size,
            text_padding=padding,
            smart_position=True,
        )
        named_detections = _detections(result.take(named), factor)
        return np.asarray(labels.annotate(picture, named_detections, [names[i] for i in np.flatnonzero(named)]))

    def legend_width(self, image: np.ndarray) -> int:
        """A width that a legend beside an image (H, W, 3) can have in every picture of a video."""
        height = len(image) * enlargement(image)
        longest = max(self.classes, key=len)
        return draw_legend([((0, 0, 0), f'{longest} (99)')], height).shape[1]

    def _draw_map(self, picture: np.ndarray, values: np.ndarray, width: int | None) -> np.ndarray:
        drawn, entries = draw_map(picture[..., ::-1], values, self.classes, self.colours)
        legend = draw_legend(entries, len(drawn))
        if width is not None:
            white = np.full((len(drawn), width, 3), 255, dtype=np.uint8)
            white[:, : legend.shape[1]] = legend[:, :width]
            legend = white
        return np.ascontiguousarray(np.concatenate((drawn, legend), axis=1)[..., ::-1])


def enlargement(image: np.ndarray) -> int:
    """The whole number by which an image (H, W, 3) is enlarged."""
    return max(1, SHOWN_SIZE // max(image.shape[:2]))


def _detections(result: Result, factor: int) -> sv.Detections:
    masks = None if result.masks is None else _enlarged(result.masks, factor)
    return sv.Detections(result.boxes * factor, masks, result.scores, result.labels)


def _enlarged(pixels: np.ndarray, factor: int) -> np.ndarray:
    return pixels.repeat(factor, -1).repeat(factor, -2)


def _uint8(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else image.clip(0, 255).astype(np.uint8)


def _palette(colours: Sequence[Colour]) -> sv.ColorPalette:
    return sv.ColorPalette([sv.Color(*colour) for colour in colours])


def _readable_on(colour: Colour) -> Colour:
    """Black or white, whichever can be read on a colour (its luma by ITU-R BT.601)."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
