"""Finds objects in large images, tile by tile."""

import numpy as np
import supervision as sv

from .detector import Detector
from .result import Result

OVERLAP = 0.2  # of a tile's side: an object up to this size is whole in some tile


def detect_in_tiles(
    detector: Detector, image: np.ndarray, size: int, score_thr: float = 0.5, batch_size: int = 8
) -> Result:
    """Find objects in overlapping tiles of an image, by ``supervision.InferenceSlicer``.

    Of detections of one class in the overlap of tiles, the surest is kept. There is no panoptic map.

    Args:
        detector: finds objects in a tile.
        image: (H, W, 3) BGR.
        size: side of a tile in pixels.
        score_thr: detections below are left out.
        batch_size: tiles that the network sees at once, at most.

    Returns:
        Boxes and masks in pixels of the whole image.
    """

    def detect(tiles: list[np.ndarray]) -> list[sv.Detections]:
        return [result.to_supervision() for result in detector(tiles, score_thr, batch_size)]

    slicer = sv.InferenceSlicer(
        detect if batch_size > 1 else lambda tile: detect([tile])[0],
        slice_wh=size,
        overlap_wh=round(size * OVERLAP),
        overlap_metric=sv.OverlapMetric.IOS,  # of an object at an edge, one tile has a part and another has all
        batch_size=batch_size,
    )
    found = slicer(image)
    assert found.confidence is not None
    assert found.class_id is not None
    masks = None if found.mask is None else np.asarray(found.mask)
    result = Result(found.xyxy, found.confidence, found.class_id, detector.classes, masks)
    return result.take(np.argsort(-result.scores, kind='stable'))
