"""Boxes of a data set and boxes that a detector found, compared by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))
IOU = 0.5  # from which a detection counts as right wherever one threshold is meant
SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, 1e10)}  # square pixels, as COCO has them
MAX_DETECTIONS = 1000  # of a class in an image, as in mmdet


class Truth(NamedTuple):
    """Objects of all images, T of them in the order of the images."""

    images: np.ndarray  # (T,) index of the image
    boxes: np.ndarray  # (T, 4) xyxy in pixels of the original image
    labels: np.ndarray  # (T,)
    ignored: np.ndarray  # (T,) bool; crowds and difficult objects, which are neither found nor missed
    areas: np.ndarray  # (T,) square pixels

    def only(self, which: np.ndarray) -> 'Truth':
        return Truth(*(values[which] for values in self))


class Found(NamedTuple):
    """Detections in all images, N of them in the order of the images."""

    images: np.ndarray  # (N,) index of the image
    boxes: np.ndarray  # (N, 4) xyxy in pixels of the original image
    labels: np.ndarray  # (N,)
    scores: np.ndarray  # (N,) between 0 and 1

    def only(self, which: np.ndarray) -> 'Found':
        return Found(*(values[which] for values in self))


class Matches(NamedTuple):
    """The object that each detection finds at :data:`IOU`, after pycocotools."""

    objects: np.ndarray  # (N,) index of the object, -1 for none
    ignored: np.ndarray  # (N,) bool; detections of ignored objects, which are neither right nor wrong

    def only(self, which: np.ndarray) -> 'Matches':
        return Matches(*(values[which] for values in self))

    @property
    def right(self) -> np.ndarray:
        """(N,) whether a detection finds an object that counts."""
        return (self.objects >= 0) & ~self.ignored


def xywh(boxes: np.ndarray) -> np.ndarray:
    """xyxy boxes (N, 4) as left, top, width and height."""
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)


def compare(
    truth: Truth,
    found: Found,
    num_images: int,
    num_classes: int,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    sizes: bool = True,
) -> COCOeval:
    """Evaluate and accumulate, without AP of the three sizes where ``sizes`` is False."""
    right = _coco(num_images, num_classes, truth.images, truth.boxes, truth.labels)
    for entry, area, ignored in zip(right.anns.values(), truth.areas.tolist(), truth.ignored.tolist(), strict=True):
        entry.update(area=area, iscrowd=int(ignored))
    given = _coco(num_images, num_classes, found.images, found.boxes, found.labels)
    for entry, score in zip(given.anns.values(), found.scores.tolist(), strict=True):
        entry.update(area=entry['bbox'][2] * entry['bbox'][3], iscrowd=0, score=score)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(right, given, 'bbox')
        evaluation.params.iouThrs = np.array(iou_thresholds)
        evaluation.params.maxDets = [100, 300, MAX_DETECTIONS] if sizes else [MAX_DETECTIONS]
        ranges = {'all': (0, 1e10), **(SIZES if sizes else {})}
        evaluation.params.areaRng = [list(pair) for pair in ranges.values()]
        evaluation.params.areaRngLbl = list(ranges)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _coco(num_images: int, num_classes: int, images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> COCO:
    """COCO's index of boxes, with ids from 1 on, since pycocotools takes the id 0 for no match."""
    coco = COCO()
    rows = zip(images.tolist(), labels.tolist(), xywh(boxes).tolist(), strict=True)
    coco.dataset = {
        'images': [{'id': number} for number in range(num_images)],
        'categories': [{'id': label} for label in range(num_classes)],
        'annotations': [
            {'id': number, 'image_id': image, 'category_id': label, 'bbox': box}
            for number, (image, label, box) in enumerate(rows, 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def matches_of(evaluation: COCOeval, num_detections: int) -> Matches:
    """The matches of :func:`compare` at its first threshold; detections beyond its maximum count as ignored."""
    matches = Matches(np.full(num_detections, -1), np.ones(num_detections, dtype=bool))
    for entry in evaluation.evalImgs:
        if entry is not None and entry['aRng'] == evaluation.params.areaRng[0]:
            ids = np.array(entry['dtIds'], dtype=int) - 1
            matches.objects[ids] = entry['dtMatches'][0].astype(int) - 1
            matches.ignored[ids] = entry['dtIgnore'][0].astype(bool)
    return matches


def mean_precision(precision: np.ndarray) -> float | None:
    """AP: the mean of a part of ``COCOeval.eval['precision']``; None if there is no object."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


def average_precisions(evaluation: COCOeval, classes: Any = slice(None)) -> dict[str, float | None]:
    """AP over the ten thresholds, at 0.5 and 0.75, and by size; of all classes, or of a list of labels."""
    precision = evaluation.eval['precision'][..., -1][:, :, classes]  # thresholds, recalls, classes, sizes
    first, strict = (np.flatnonzero(np.isclose(evaluation.params.iouThrs, iou)) for iou in (0.5, 0.75))
    results = {
        'AP': mean_precision(precision[..., 0]),
        'AP50': mean_precision(precision[first][..., 0]),
        'AP75': mean_precision(precision[strict][..., 0]),
    }
    for place, size in enumerate(SIZES, 1):
        results[f'AP_{size}'] = mean_precision(precision[..., place])
    return results


def slices_by_image(images: np.ndarray, num_images: int) -> list[slice]:
    """Where the boxes of each image are, given the image of each box in order."""
    ends = np.searchsorted(images, np.arange(num_images + 1))
    return [slice(start, end) for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
