"""Checks a box of an annotation file."""

import math
from array import array

from ..box_rule import SMALLEST, overlaps
from .problems import Kind


def kind_of_box(box: object, width: float, height: float) -> Kind | None:
    """What keeps a box of an annotation file from being learnt.

    Args:
        box: ``bbox`` of the file; right is a list of x, y, width and height in pixels.
        width: of the image in pixels.
        height: of the image in pixels.

    Returns:
        The kind of problem; None for a box that can be learnt.
    """
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        return Kind.NO_BOX
    x, y, w, h = map(float, box)
    if w < SMALLEST or h < SMALLEST:
        return Kind.DEGENERATE_BOX
    x1, y1, x2, y2 = array('f', (x, y, x + w, y + h))  # the loss gets float32 and has to decide the same
    if overlaps(x1, x2, width) and overlaps(y1, y2, height):
        return None
    return Kind.BOX_OUTSIDE


def looks_like_corners(box: list[float], area: float | None, width: float, height: float) -> bool:
    """Whether a box makes sense as x1, y1, x2, y2, and makes none as x, y, width, height.

    Args:
        box: four finite numbers.
        area: the object's area in the file, if it has one.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    x, y, w, h = map(float, box)
    if not (0 <= x < w <= width and 0 <= y < h <= height):
        return False
    far_out = x + w > 1.1 * width or y + h > 1.1 * height
    return far_out or (area is not None and _equal(area, (w - x) * (h - y)) and not _equal(area, w * h))


def _equal(area: float, other: float) -> bool:
    return math.isclose(area, other, rel_tol=0.01)


def is_finite(value: object) -> bool:
    """Whether this is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
