"""What a detector finds in an image."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Result:
    """Detections in an image, the surest first.

    Attributes:
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the image as it was given.
        scores: (N,) float32, between 0 and 1.
        labels: (N,) int64, indices in ``classes``.
        classes: names of all classes that the detector knows.
        masks: (N, H, W) bool of a detector with masks, else None.
        panoptic: (H, W) int64 of a panoptic detector, else None: label + 1000 * number of the instance, counted from 1,
            and 0 for stuff. ``len(classes)`` stands where nothing was found.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    masks: np.ndarray | None = None
    panoptic: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        """Name of the class of each detection."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        found = ', '.join(f'{name} {score:.2f}' for name, score in zip(self.names[:5], self.scores, strict=False))
        more = f' and {len(self) - 5} more' if len(self) > 5 else ''
        return f'<Result: {found or "nothing found"}{more}>'

    def above(self, score_thr: float) -> 'Result':
        """The detections with at least this score; the panoptic map stays as it is."""
        return self.take(self.scores >= score_thr)

    def take(self, index: np.ndarray) -> 'Result':
        """The detections of an index, such as an array of bool (N,)."""
        masks = None if self.masks is None else self.masks[index]
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index], masks=masks)

    def to_supervision(self) -> 'supervision.Detections':
        """The detections for the library supervision, with their names as ``data['class_name']``."""
        import supervision  # takes a second

        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data={'class_name': np.array(self.names, dtype=str)},
        )
