"""All numbers about what a detector found."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .boxes import IOU, SIZES, Found, Matches, Truth, average_precisions, compare, matches_of
from .collect import Collected
from .confusion import confusion_matrix
from .errors import ErrorKind, Errors, costs, find_errors
from .thresholds import Operation, ScoreCurve, best_threshold, score_curve

DEFAULT_THRESHOLD = 0.5  # where no detection is right, so that none is best
STEPS = 7  # of analyse


class Analysis(NamedTuple):
    """What is known about a detector: K classes, N detections that are shown, T objects."""

    numbers: dict[str, Any]  # what evaluation.json has
    precision: np.ndarray  # (10, 101, K) of pycocotools: at ten IoUs and 101 recalls
    confusion: np.ndarray  # (K + 1, K + 1) at the best threshold
    curve: ScoreCurve  # of all classes together
    best: Operation | None  # threshold of all classes together
    gains: dict[ErrorKind, float]  # AP50 by mending errors at any score
    shown: Found  # detections from the best threshold on
    matches: Matches  # of them
    errors: Errors  # among them
    scores: np.ndarray  # (T,) of the detection that finds an object, at any score; 0 if none does


def analyse(collected: Collected, advance: Callable[[], None] = lambda: None) -> Analysis:
    """Compare what a detector found with the objects.

    Args:
        collected: objects and detections.
        advance: called after each of the ``STEPS`` evaluations.
    """
    truth, found, classes = collected.truth, collected.found, collected.classes
    num_images, num_classes = len(collected.paths), len(classes)
    evaluation = compare(truth, found, num_images, num_classes)
    advance()
    matches = matches_of(evaluation, len(found.images))
    counted, judged = ~truth.ignored, ~matches.ignored
    scores, right = found.scores[judged], matches.right[judged]
    best = best_threshold(scores, right, int(counted.sum()))
    threshold = best.threshold if best else DEFAULT_THRESHOLD
    matrix = confusion_matrix(truth, found, matches, num_images, num_classes, threshold)
    overall = average_precisions(evaluation)
    everywhere = find_errors(truth, found, matches, num_images)
    gains = costs(truth, found, everywhere, num_images, num_classes, overall['AP50'] or 0.0, advance)
    kept = found.scores >= threshold
    shown = found.only(kept)
    errors = find_errors(truth, shown, matches.only(kept), num_images)
    of_objects = np.zeros(len(truth.images))
    of_objects[matches.objects[matches.right]] = found.scores[matches.right]
    per_class = []
    for label, name in enumerate(classes):
        objects = int((truth.labels[counted] == label).sum())
        own = found.labels[judged] == label
        operation = best_threshold(scores[own], right[own], objects)
        aps = average_precisions(evaluation, [label])
        per_class.append({'name': name, 'objects': objects, **aps, 'best_f1': operation and operation._asdict()})
    numbers = {
        'images': num_images,
        'objects': int(counted.sum()),
        'ignored_objects': int(truth.ignored.sum()),
        'objects_by_size': _by_size(truth),
        'detections': len(found.images),
        **overall,
        'best_f1': best and best._asdict(),
        'classes': per_class,
        'errors': [
            {
                'kind': kind.label,
                'tide': kind.tide,
                'meaning': kind.meaning,
                'cost_ap50': gains[kind],
                'number': len(errors.of(kind)),
            }
            for kind in ErrorKind
        ],
        'confusion': {'score_threshold': threshold, 'iou_threshold': IOU, 'counts': matrix.tolist()},
        'speed': _speed(collected.milliseconds),
        'evaluator': {name: float(value) if np.isfinite(value) else None for name, value in collected.metrics.items()},
    }
    curve = score_curve(scores, right, int(counted.sum()))
    return Analysis(
        numbers,
        evaluation.eval['precision'][:, :, :, 0, -1],
        matrix,
        curve,
        best,
        gains,
        shown,
        matches.only(kept),
        errors,
        of_objects,
    )


def _by_size(truth: Truth) -> dict[str, int]:
    areas = truth.areas[~truth.ignored]
    return {size: int(((areas >= low) & (areas < high)).sum()) for size, (low, high) in SIZES.items()}


def _speed(milliseconds: list[float]) -> dict[str, float]:
    return {
        'median_ms': statistics.median(milliseconds),
        'fastest_ms': min(milliseconds),
        'slowest_ms': max(milliseconds),
        'images': len(milliseconds),
    }
