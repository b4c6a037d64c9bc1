"""Matches the segments of two panoptic segmentations of an image."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..compat.missing_panopticapi import PQStat


class Segment(NamedTuple):
    """A segment of an image; its pixels are in a map of ids."""

    label: int
    is_crowd: bool = False


def match_segments(
    truth: np.ndarray, true: Mapping[int, Segment], prediction: np.ndarray, predicted: Mapping[int, Segment]
) -> PQStat:
    """Count matches, false positives and false negatives of an image (arXiv 1801.00868, section 4.1, and COCO's rules).

    Two segments match if they have the same label and an IoU above 0.5, where the union is taken without the pixels
    of the prediction that are VOID in the truth. A region of a crowd matches nothing and is not missed. A prediction
    without a partner is no false positive if more than half of it is VOID or crowd of its own label in the truth.

    Args:
        truth: ids (H, W). A pixel whose id is not in ``true`` is VOID.
        true: the segments by id; one without a pixel counts as missed, as in panopticapi.
        prediction: ids (H, W). A pixel whose id is not in ``predicted`` belongs to no segment.
        predicted: the segments by id.

    Returns:
        The counts, by label.

    Raises:
        ValueError: the maps have different sizes.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f'the prediction has {prediction.shape} pixels (height, width), the truth {truth.shape}')
    rows, true_segments = _numbered(truth, true)
    columns, predicted_segments = _numbered(prediction, predicted)
    shape = (len(true_segments) + 1, len(predicted_segments) + 1)
    pixels = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)  # row 0 is VOID
    true_area, area = pixels[1:].sum(1), pixels[:, 1:].sum(0)
    void, overlap = pixels[0, 1:], pixels[1:, 1:]
    iou = overlap / (true_area[:, None] + (area - void) - overlap)

    true_labels = np.array([segment.label for segment in true_segments], dtype=int)
    crowd = np.array([segment.is_crowd for segment in true_segments], dtype=bool)
    labels = np.array([segment.label for segment in predicted_segments], dtype=int)
    same = true_labels[:, None] == labels
    matched = same & ~crowd[:, None] & (iou > 0.5)  # a row or a column has one at most, as segments do not overlap
    ignored = void + (overlap * (same & crowd[:, None])).sum(0)
    missed = ~crowd & ~matched.any(1)
    wrong = ~matched.any(0) & (2 * ignored <= area)

    stat = PQStat()
    for row, column in zip(*matched.nonzero(), strict=True):
        stat[labels[column].item()].tp += 1
        stat[labels[column].item()].iou += iou[row, column].item()
    without_pixels = [true[i].label for i in true.keys() - set(np.unique(truth).tolist()) if not true[i].is_crowd]
    for label in true_labels[missed].tolist() + without_pixels:
        stat[label].fn += 1
    for label in labels[wrong].tolist():
        stat[label].fp += 1
    return stat


def _numbered(ids: np.ndarray, segments: Mapping[int, Segment]) -> tuple[np.ndarray, list[Segment]]:
    """The map with segments numbered from 1 and 0 for all else, flat, and the segments that have a pixel."""
    present, inverse = np.unique(ids, return_inverse=True)
    known = np.array([number in segments for number in present.tolist()], dtype=bool)
    numbers = np.where(known, np.cumsum(known), 0)
    return numbers[inverse.reshape(-1)], [segments[number] for number in present[known].tolist()]
