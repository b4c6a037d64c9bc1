"""Make one map of the masks of an image (``PostProcessPanoptic`` of the official ``models/segmentation.py``)."""

import torch
from mmdet.evaluation.functional import INSTANCE_OFFSET
from torch import Tensor

from ..padding import Size
from .resize import MASKS_AT_ONCE, enlarged, nearest_by_centre


def panoptic_map(
    logits: Tensor,
    labels: Tensor,
    num_things_classes: int,
    num_classes: int,
    min_area: int,
    input_size: Size,
    image_size: Size,
    size: Size,
) -> Tensor:
    """Give every pixel to the query with the highest mask logit.

    Of several queries with the same class of stuff, the first gets the pixels. Segments that are smaller than
    ``min_area`` are removed, and their pixels go to the best of the other queries, until none is left that is too
    small. (So do the pixels of the other stuff queries, whose segments are empty.)

    Args:
        logits: (N, H, W) of the queries that are kept.
        labels: (N,) of them.
        num_things_classes: labels below it are things.
        num_classes: things and stuff.
        min_area: in pixels of the map.
        input_size: of the padded batch in pixels.
        image_size: of the image in it.
        size: of the map; nearest pixel, as Pillow counts them.

    Returns:
        Int64 (*size): label + 1000 * number of the instance, counted from 1 within a class of things and 0 for stuff;
        ``num_classes`` where no query is kept.
    """
    rows, columns = (
        torch.from_numpy(nearest_by_centre(length, out)).to(logits.device)
        for length, out in zip(image_size, size, strict=True)
    )
    kept = torch.arange(len(labels), device=logits.device)
    while len(kept):
        best = _best_query(logits[kept], input_size, image_size)
        if len(kept) == len(labels):  # nothing removed yet
            best = _first_of_class(labels, num_things_classes)[best]
        segments = best[rows[:, None], columns]
        large = torch.bincount(segments.flatten(), minlength=len(kept)) >= min_area
        if large.all():
            return _values(labels[kept], num_things_classes)[segments]
        kept = kept[large]
    return torch.full(size, num_classes, device=logits.device)


def _first_of_class(labels: Tensor, num_things_classes: int) -> Tensor:
    """The query (N,) that gets the pixels of each query: the first with the same class of stuff, or itself."""
    itself = torch.arange(len(labels), device=labels.device)
    same = (labels[:, None] == labels) & (labels >= num_things_classes) | (itself[:, None] == itself)
    return same.int().argmax(1)  # the first of the largest


def _best_query(logits: Tensor, input_size: Size, image_size: Size) -> Tensor:
    """The query with the highest logit at every pixel of the image; a few masks are enlarged at a time."""
    highest, best = enlarged(logits[:MASKS_AT_ONCE], input_size, image_size).max(0)
    for first in range(MASKS_AT_ONCE, len(logits), MASKS_AT_ONCE):
        value, index = enlarged(logits[first : first + MASKS_AT_ONCE], input_size, image_size).max(0)
        best = torch.where(value > highest, index + first, best)
        highest = highest.maximum(value)
    return best


def _values(labels: Tensor, num_things_classes: int) -> Tensor:
    """Value (N,) of each segment in mmdet's panoptic maps."""
    same = (labels[:, None] == labels).tril()  # earlier ones and itself
    return labels + INSTANCE_OFFSET * same.sum(1) * (labels < num_things_classes)
