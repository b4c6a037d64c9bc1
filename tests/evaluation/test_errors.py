"""Thresholds, confusions and kinds of errors on a handful of boxes."""

import numpy as np
import pytest

from mmdet_detr.evaluation.boxes import Found, Truth, average_precisions, compare, matches_of
from mmdet_detr.evaluation.confusion import confusion_matrix, frequent_confusions
from mmdet_detr.evaluation.errors import ErrorKind, costs, find_errors
from mmdet_detr.evaluation.thresholds import best_threshold, score_curve

CAT, DOG = 0, 1


def truth_of(*objects: tuple) -> Truth:
    """Objects as image, label, box and whether it is ignored."""
    images, labels, boxes, ignored = zip(*objects, strict=True)
    boxes = np.array(boxes, dtype=float)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Truth(np.array(images), boxes, np.array(labels), np.array(ignored), areas)


def found_of(*detections: tuple) -> Found:
    """Detections as image, label, box and score."""
    if not detections:
        return Found(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    images, labels, boxes, scores = zip(*detections, strict=True)
    return Found(np.array(images), np.array(boxes, dtype=float), np.array(labels), np.array(scores))


# Image 0: a cat and a dog, far apart. Image 1: a cat, and a crowd of dogs. Image 2: nothing. Image 3: a dog.
TRUTH = truth_of(
    (0, CAT, (0, 0, 10, 10), False),
    (0, DOG, (50, 50, 70, 70), False),
    (1, CAT, (0, 0, 10, 10), False),
    (1, DOG, (40, 40, 90, 90), True),
    (3, DOG, (0, 0, 20, 20), False),
)
FOUND = found_of(
    (0, CAT, (0, 0, 10, 10), 0.9),  # right
    (0, CAT, (0, 0, 10, 9), 0.8),  # a duplicate
    (0, CAT, (50, 50, 70, 70), 0.7),  # confused: a dog
    (0, DOG, (0, 5, 10, 15), 0.6),  # both: IoU 1/3 with the cat
    (0, DOG, (90, 90, 99, 99), 0.5),  # background
    (1, CAT, (0, 4, 10, 14), 0.4),  # misplaced: IoU 60 / 140
    (1, DOG, (50, 50, 60, 60), 0.95),  # in the crowd
    (2, DOG, (0, 0, 10, 10), 0.3),  # background, in an image without objects
)
NUM_IMAGES, NUM_CLASSES = 4, 2


@pytest.fixture(scope='module')
def matches():
    return matches_of(compare(TRUTH, FOUND, NUM_IMAGES, NUM_CLASSES), len(FOUND.images))


def test_matches(matches):
    assert matches.objects.tolist() == [0, -1, -1, -1, -1, -1, 3, -1]
    assert matches.ignored.tolist() == [False] * 6 + [True, False]
    assert matches.right.tolist() == [True] + [False] * 7


def test_kinds_of_errors(matches):
    errors = find_errors(TRUTH, FOUND, matches, NUM_IMAGES)
    assert {kind: errors.of(kind).tolist() for kind in ErrorKind} == {
        ErrorKind.DUPLICATE: [1],
        ErrorKind.CONFUSED: [2],
        ErrorKind.BOTH: [3],
        ErrorKind.BACKGROUND: [4, 7],
        ErrorKind.MISPLACED: [5],
        ErrorKind.MISSED: [4],  # the others are at the place of a confused or misplaced detection
    }
    assert errors.objects.tolist() == [-1, 0, 1, 0, -1, 2, -1, -1]
    assert errors.taken.tolist() == [True, False, False, False, False]


def test_costs(matches):
    """AP50 is 101-point: of cats 51/101 (one of two is found), of dogs 0."""
    before = average_precisions(compare(TRUTH, FOUND, NUM_IMAGES, NUM_CLASSES))['AP50']
    assert before == pytest.approx(51 / 101 / 2)
    errors = find_errors(TRUTH, FOUND, matches, NUM_IMAGES)
    gains = costs(TRUTH, FOUND, errors, NUM_IMAGES, NUM_CLASSES, before)
    one_of_two = 51 / 101
    # the second cat becomes right at place 4: precision 2/4 from recall 0.51 on
    assert gains[ErrorKind.MISPLACED] == pytest.approx(50 / 101 * 2 / 4 / 2)
    # the confused cat is now the best of all dogs: one of two is found
    assert gains[ErrorKind.CONFUSED] == pytest.approx(one_of_two / 2)
    # with the second dog gone from the objects, the first is still not found
    assert gains[ErrorKind.MISSED] == gains[ErrorKind.BOTH] == gains[ErrorKind.BACKGROUND] == 0
    assert gains[ErrorKind.DUPLICATE] == 0


def test_confused_and_misplaced_detections_of_one_object():
    """The better one is mended: a dog at the place of the cat; removing the other alone gains nothing."""
    truth = truth_of((0, CAT, (0, 0, 10, 10), False), (0, DOG, (50, 50, 60, 60), False))
    found = found_of((0, DOG, (0, 0, 10, 10), 0.9), (0, CAT, (0, 4, 10, 14), 0.8), (0, DOG, (50, 50, 60, 60), 0.7))
    evaluation = compare(truth, found, 1, 2)
    errors = find_errors(truth, found, matches_of(evaluation, 3), 1)
    before = average_precisions(evaluation)['AP50']
    assert before == pytest.approx(0.5 / 2)  # the dog comes second
    gains = costs(truth, found, errors, 1, 2, before)
    assert gains[ErrorKind.CONFUSED] == pytest.approx(1 - before)
    assert gains[ErrorKind.MISPLACED] == 0


def test_confusion_matrix(matches):
    matrix = confusion_matrix(TRUTH, FOUND, matches, NUM_IMAGES, NUM_CLASSES, threshold=0.35)
    assert matrix.tolist() == [
        [1, 0, 1],  # cats: one found, the other has no detection that overlaps enough
        [1, 0, 1],  # dogs: one taken for a cat; the crowd does not count
        [2, 2, 0],  # background: the duplicate, the misplaced cat, and two dogs
    ]
    assert frequent_confusions(matrix) == [(DOG, CAT, 1)]
    above = confusion_matrix(TRUTH, FOUND, matches, NUM_IMAGES, NUM_CLASSES, threshold=0.85)
    assert above.tolist() == [[1, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_threshold():
    """F1 is 2/3, 1/2, 4/5, 2/3, 4/7 for 1, 2, 3, 4 and 5 shown detections, two of them right, of two objects."""
    scores, right = np.array([0.9, 0.8, 0.6, 0.5, 0.1]), np.array([True, False, True, False, False])
    curve = score_curve(scores, right, num_objects=2)
    assert curve.f1 == pytest.approx([2 / 3, 1 / 2, 4 / 5, 2 / 3, 4 / 7])
    best = best_threshold(scores[::-1], right[::-1], num_objects=2)
    assert best == pytest.approx((0.55, 2 / 3, 1.0, 4 / 5))


def test_equal_scores_are_shown_together():
    curve = score_curve(np.array([0.5, 0.5, 0.5]), np.array([True, False, False]), num_objects=1)
    assert (curve.scores.tolist(), curve.precision.tolist()) == ([0.5], [pytest.approx(1 / 3)])
    assert best_threshold(np.array([0.5, 0.5]), np.array([True, False]), 1).threshold == 0.25


def test_no_threshold():
    assert best_threshold(np.zeros(0), np.zeros(0, dtype=bool), num_objects=3) is None
    assert best_threshold(np.array([0.5]), np.array([False]), num_objects=0) is None
    with pytest.raises(ValueError, match='num_objects=0'):
        score_curve(np.zeros(0), np.zeros(0, dtype=bool), num_objects=0)


def test_nothing_found():
    found = found_of()
    evaluation = compare(TRUTH, found, NUM_IMAGES, NUM_CLASSES)
    results = average_precisions(evaluation)
    assert (results['AP'], results['AP_large']) == (0.0, None)
    matches = matches_of(evaluation, 0)
    errors = find_errors(TRUTH, found, matches, NUM_IMAGES)
    assert errors.of(ErrorKind.MISSED).tolist() == [0, 1, 2, 4]
    gains = costs(TRUTH, found, errors, NUM_IMAGES, NUM_CLASSES, 0.0)
    assert set(gains.values()) == {0.0}
    matrix = confusion_matrix(TRUTH, found, matches, NUM_IMAGES, NUM_CLASSES, 0.5)
    assert matrix.tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]
