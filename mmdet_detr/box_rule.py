"""Which boxes a detector can learn: the one rule of the reader, the data check and the loss.

A box needs finite corners, width and height, and a part inside its image. In the annotation file, width and height
are at least one pixel: thinner boxes are slips of an annotator, and mmdet leaves them out too. The loss sees boxes
after resizing and cropping, where the rest of a real object can be thinner than a pixel. There, as in the official
code, any part of an object counts. This module imports nothing, so that a model needs no data set.
"""

from typing import Any

SMALLEST = 1  # pixels of the original image
FARTHEST = 2.0**30  # sides of the image; float32 then holds a box's area and even the square of that


def overlaps(low: Any, high: Any, side: Any) -> Any:
    """Whether a box has a part inside its image along one axis, and ends within ``FARTHEST`` sides of it.

    Comparisons alone decide, so that the same lines serve numbers and tensors; tensors stay on their device. NaN fails
    all of them.

    Args:
        low: where the box begins, float or tensor, in any unit.
        high: where it ends.
        side: length of the image in the same unit.

    Returns:
        A bool, or a bool tensor of the broadcast shape.
    """
    inside = (low < high) & (low < side) & (high > 0)
    return inside & (low > -FARTHEST * side) & (high < FARTHEST * side)
