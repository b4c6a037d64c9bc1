"""The confusion matrix of a detector."""

import numpy as np
from supervision import ConfusionMatrix

from .boxes import IOU, Found, Matches, Truth, slices_by_image


def confusion_matrix(
    truth: Truth, found: Found, matches: Matches, num_images: int, num_classes: int, threshold: float
) -> np.ndarray:
    """Count what objects are taken for.

    An object and a detection belong together if their IoU is above :data:`IOU`: pairs of the same class first, then by
    IoU, each once. Ignored objects and their detections do not count.

    Args:
        truth: the objects.
        found: the detections.
        matches: which detections to ignore.
        num_images: number of images.
        num_classes: K.
        threshold: detections with a lower score do not count.

    Returns:
        Counts (K + 1, K + 1): row the true class, column the detected class. The last row is background, taken for an
        object; the last column objects that were missed.
    """
    truth, found = truth.only(~truth.ignored), found.only(~matches.ignored)
    targets = np.column_stack((truth.boxes, truth.labels))
    predictions = np.column_stack((found.boxes, found.labels, found.scores))
    counted = ConfusionMatrix.from_tensors(
        [predictions[part] for part in slices_by_image(found.images, num_images)],
        [targets[part] for part in slices_by_image(truth.images, num_images)],
        [str(label) for label in range(num_classes)],
        conf_threshold=threshold,
        iou_threshold=IOU,
    )
    return counted.matrix.astype(int)


def frequent_confusions(matrix: np.ndarray, most: int = 10) -> list[tuple[int, int, int]]:
    """True label, detected label and number of the most frequent confusions of two classes."""
    wrong = matrix[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind='stable')[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column, int(wrong[row, column])) for row, column in pairs if wrong[row, column]]
