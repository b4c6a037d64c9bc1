"""Checks the boxes of an annotation file: x, y, width and height in pixels."""

import math
from array import array
from collections.abc import Iterator
from typing import Any

from ..box_rule import SMALLEST, overlaps
from .problems import Kind, Problem, short

ROUNDING = 1e-3  # pixels; a converter's sums of floats end that much beyond the image


def check_box(box: Any, width: float, height: float) -> Problem | None:
    """What is wrong with the ``bbox`` of an annotation in an image of this size; None for a box inside its image."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        return Problem(Kind.NO_BOX, f'bbox {short(box)} is not four finite numbers')
    x, y, w, h = map(float, box)
    if w < SMALLEST or h < SMALLEST:
        return Problem(Kind.DEGENERATE_BOX, f'{w:g} x {h:g} pixels')
    x1, y1, x2, y2 = array('f', (x, y, x + w, y + h))  # the loss gets float32 and has to decide the same
    if not (overlaps(x1, x2, width) and overlaps(y1, y2, height)):
        kind = Kind.BOX_OUTSIDE
    elif min(x, y, width - x - w, height - y - h) < -ROUNDING:
        kind = Kind.BOX_REACHES_OUT
    else:
        return None
    return Problem(kind, f'{box} of {width} x {height}')


def check_corners(annotations: list[dict], sizes: dict[int | str, tuple[int, int]]) -> Iterator[Problem]:
    """A problem if most boxes look like x1, y1, x2, y2; a single box can do so by chance.

    Args:
        annotations: sound entries.
        sizes: (width, height) of each image, by its id.
    """
    found = [e['bbox'] for e in annotations if _look_like_corners(e['bbox'], e.get('area'), *sizes[e['image_id']])]
    if 2 * len(found) > len(annotations):
        reason = f'{len(found)} of {len(annotations)} boxes look like x1, y1, x2, y2; the first is {found[0]}'
        yield Problem(Kind.CORNERS, reason, 'annotations')


def _look_like_corners(box: list[float], area: float | None, width: float, height: float) -> bool:
    """Whether a box makes sense as x1, y1, x2, y2, and makes none as x, y, width, height."""
    x, y, w, h = map(float, box)
    if not (0 <= x < w <= width and 0 <= y < h <= height):
        return False
    if x + w > 1.1 * width or y + h > 1.1 * height:
        return True
    return area is not None and _equal(area, (w - x) * (h - y)) and not _equal(area, w * h)


def _equal(area: float, other: float) -> bool:
    return math.isclose(area, other, rel_tol=0.01)


def is_finite(value: object) -> bool:
    """Whether this is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
