"""The score from which detections are worth showing."""

from typing import NamedTuple

import numpy as np


class Operation(NamedTuple):
    """What a detector does where it shows only detections from a score on."""

    threshold: float
    precision: float  # share of the shown detections that are right
    recall: float  # share of the objects that are found
    f1: float


class ScoreCurve(NamedTuple):
    """Precision, recall and F1 as functions of the score threshold, from high to low scores; P different scores."""

    scores: np.ndarray  # (P,) lowest score that is shown
    precision: np.ndarray  # (P,)
    recall: np.ndarray  # (P,)
    f1: np.ndarray  # (P,)


def score_curve(scores: np.ndarray, right: np.ndarray, num_objects: int) -> ScoreCurve:
    """Precision, recall and F1 at every score.

    Args:
        scores: scores (N,) of detections, in any order.
        right: whether each finds an object (N,).
        num_objects: number of objects, at least 1.

    Raises:
        ValueError: there is no object.
    """
    if num_objects < 1:
        raise ValueError(f'num_objects={num_objects}, but recall needs an object')
    order = np.argsort(-scores, kind='stable')
    scores = scores[order]
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores are shown together
    found = np.cumsum(right[order])[last]
    shown = np.arange(1, len(scores) + 1)[last]
    return ScoreCurve(scores[last], found / shown, found / num_objects, 2 * found / (shown + num_objects))


def best_threshold(scores: np.ndarray, right: np.ndarray, num_objects: int) -> Operation | None:
    """The threshold with the largest F1: halfway between the lowest score to show and the next one (or 0).

    Args:
        scores: scores (N,) of detections, in any order.
        right: whether each finds an object (N,).
        num_objects: number of objects.

    Returns:
        None if there is no object or no detection is right.
    """
    if num_objects < 1 or not right.any():
        return None
    curve = score_curve(scores, right, num_objects)
    best = int(curve.f1.argmax())
    below = np.append(curve.scores[1:], 0)[best]
    threshold = (curve.scores[best] + below) / 2
    return Operation(float(threshold), *(float(values[best]) for values in curve[1:]))
