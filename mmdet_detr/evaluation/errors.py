"""The six kinds of errors of TIDE (Bolya et al., arXiv 2008.08115), and what each costs."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import numpy as np
from pycocotools.mask import iou

from .boxes import IOU, Found, Matches, Truth, compare, slices_by_image, xywh

BACKGROUND_IOU = 0.1  # below, a detection has nothing to do with an object


class ErrorKind(Enum):
    """Kinds of errors, with TIDE's short name and what the detector did."""

    CONFUSED = 'Cls', 'right place, wrong class'
    MISPLACED = 'Loc', 'right class, badly placed'
    BOTH = 'Both', 'wrong class and badly placed'
    DUPLICATE = 'Dupe', 'an object that was found already'
    BACKGROUND = 'Bkg', 'nothing is there'
    MISSED = 'Miss', 'an object was not found'

    def __init__(self, tide: str, meaning: str) -> None:
        self.tide = tide
        self.meaning = meaning

    @property
    def label(self) -> str:
        """The name on pages and in files."""
        return self.name.lower()


FALSE_KINDS: list[ErrorKind] = [kind for kind in ErrorKind if kind is not ErrorKind.MISSED]


class Errors(NamedTuple):
    """Errors of N detections among T objects."""

    kinds: np.ndarray  # (N,) place of the kind in FALSE_KINDS, -1 for a detection that is right or ignored
    objects: np.ndarray  # (N,) index of the object that the error is about, -1 for none
    missed: np.ndarray  # (T,) bool; neither found nor at the place of a confused or misplaced detection
    taken: np.ndarray  # (T,) bool; objects that a detection found

    def of(self, kind: ErrorKind) -> np.ndarray:
        """Indices of the detections with a kind of error; of the objects for ``MISSED``."""
        return np.flatnonzero(self.missed if kind is ErrorKind.MISSED else self.kinds == FALSE_KINDS.index(kind))


def find_errors(truth: Truth, found: Found, matches: Matches, num_images: int) -> Errors:
    """Tell the kind of every error, in the order in which TIDE's code asks.

    A detection that finds no object is *misplaced* if the IoU with the nearest object of its class is from 0.1 to 0.5;
    else *confused* if that with an object of another class is at least 0.5; else a *duplicate* if that with an object
    of its class, which a better detection has found, is at least 0.5; else *background* if that with every object is
    at most 0.1; else *both*. An object is *missed* if no detection finds it and no misplaced or confused one is at its
    place. Ignored objects and detections are no errors.

    Args:
        truth: the objects.
        found: the detections.
        matches: which of them belong together.
        num_images: number of images.
    """
    taken = np.zeros(len(truth.images), dtype=bool)
    taken[matches.objects[matches.right]] = True
    errors = Errors(np.full(len(found.images), -1), np.full(len(found.images), -1), ~taken & ~truth.ignored, taken)
    parts = zip(slices_by_image(truth.images, num_images), slices_by_image(found.images, num_images), strict=True)
    for objects, detections in parts:
        counted = np.arange(objects.start, objects.stop)[~truth.ignored[objects]]
        wrong = np.arange(detections.start, detections.stop)
        wrong = wrong[~matches.right[detections] & ~matches.ignored[detections]]
        if not len(wrong):
            continue
        if not len(counted):
            errors.kinds[wrong] = FALSE_KINDS.index(ErrorKind.BACKGROUND)
            continue
        overlap = iou(xywh(found.boxes[wrong]), xywh(truth.boxes[counted]), np.zeros(len(counted), dtype=np.uint8))
        same = found.labels[wrong][:, None] == truth.labels[counted]
        for row, index in enumerate(wrong.tolist()):
            kind, column = _kind_of(overlap[row], same[row], taken[counted])
            errors.kinds[index] = FALSE_KINDS.index(kind)
            if column is not None:
                errors.objects[index] = counted[column]
                if kind in (ErrorKind.CONFUSED, ErrorKind.MISPLACED):
                    errors.missed[counted[column]] = False
    return errors


def _kind_of(overlap: np.ndarray, same: np.ndarray, taken: np.ndarray) -> tuple[ErrorKind, int | None]:
    """The error of a wrong detection, and the column of the object that it is about.

    Args:
        overlap: IoU with every object of the image (T,).
        same: whether they are of its class (T,).
        taken: whether another detection found them (T,).
    """
    of_class, of_others, of_taken = overlap * same, overlap * ~same, overlap * (same & taken)
    if BACKGROUND_IOU <= of_class.max() <= IOU:
        return ErrorKind.MISPLACED, int(of_class.argmax())
    if of_others.max() >= IOU:
        return ErrorKind.CONFUSED, int(of_others.argmax())
    if of_taken.max() >= IOU:
        return ErrorKind.DUPLICATE, int(of_taken.argmax())
    if overlap.max() <= BACKGROUND_IOU:
        return ErrorKind.BACKGROUND, None
    return ErrorKind.BOTH, int(overlap.argmax())


def costs(
    truth: Truth,
    found: Found,
    errors: Errors,
    num_images: int,
    num_classes: int,
    before: float,
    advance: Callable[[], None] = lambda: None,
) -> dict[ErrorKind, float]:
    """AP50 that a detector gains where all errors of one kind are mended, and no others (TIDE's dAP).

    The best of the confused and misplaced detections of an object that was not found gets its class and its box. Other
    errors of the kind are removed, and so are missed objects. Gains do not add up to what is missing to an AP50 of 1.

    Args:
        truth: the objects.
        found: the detections.
        errors: of :func:`find_errors`.
        num_images: number of images.
        num_classes: number of classes.
        before: AP50 with all errors.
        advance: called after each of the six evaluations.
    """
    classes = np.unique(truth.labels[~truth.ignored])

    def ap50(truth: Truth, found: Found) -> float:
        evaluation = compare(truth, found, num_images, num_classes, (IOU,), sizes=False)
        advance()
        precision = evaluation.eval['precision'][0, :, classes, 0, 0]
        return float(np.maximum(precision, 0).mean()) if classes.size else 0.0  # a class without an object left has -1

    gains: dict[ErrorKind, float] = {}
    for kind in FALSE_KINDS:
        gains[kind] = ap50(truth, _mended(truth, found, errors, kind)) - before
    gains[ErrorKind.MISSED] = ap50(truth.only(~errors.missed), found) - before
    return {kind: max(0.0, gain) for kind, gain in gains.items()}  # below 0 by the steps of interpolation alone


def _mended(truth: Truth, found: Found, errors: Errors, kind: ErrorKind) -> Found:
    """The detections without the errors of a kind."""
    keep = np.ones(len(found.images), dtype=bool)
    keep[errors.of(kind)] = False
    boxes, labels = found.boxes.copy(), found.labels.copy()
    if kind in (ErrorKind.CONFUSED, ErrorKind.MISPLACED):
        chosen = _best(found, errors)
        chosen = chosen[errors.kinds[chosen] == FALSE_KINDS.index(kind)]
        boxes[chosen], labels[chosen] = truth.boxes[errors.objects[chosen]], truth.labels[errors.objects[chosen]]
        keep[chosen] = True
    return found._replace(boxes=boxes, labels=labels).only(keep)


def _best(found: Found, errors: Errors) -> np.ndarray:
    """The confused or misplaced detection with the highest score of each object that none found."""
    mendable = np.isin(errors.kinds, [FALSE_KINDS.index(k) for k in (ErrorKind.CONFUSED, ErrorKind.MISPLACED)])
    candidates = np.flatnonzero(mendable & ~errors.taken[errors.objects])
    order = candidates[np.argsort(-found.scores[candidates], kind='stable')]
    _, first = np.unique(errors.objects[order], return_index=True)
    return order[first]
