"""The kinds of problems that data can have, what training and evaluation do about each, and one problem found."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

ERROR, WARNING = 'error', 'warning'
LEFT_OUT, USED, COUNTED, ENDS = 'left out', 'used', 'counted as it is', 'ends at its start'


class Kind(Enum):
    """One kind of problem: its name in reports, its level, what training does and what evaluation does.

    Training is that of :class:`~mmdet_detr.datasets.RobustCocoDataset`, evaluation that of mmdet's ``CocoMetric``. For
    panoptic files, both are those of :class:`~mmdet_detr.datasets.PanopticDataset`.
    """

    NO_ANNOTATIONS = 'no annotations', ERROR, ENDS, ENDS
    NO_OBJECT = 'no object', ERROR, LEFT_OUT, ENDS
    MISSING_KEY = 'missing key', ERROR, LEFT_OUT, ENDS
    WRONG_TYPE = 'wrong type', ERROR, LEFT_OUT, ENDS
    OUTSIDE_FOLDER = 'outside the data', ERROR, 'left out, unless allow_outside=True', ENDS
    DUPLICATE_CATEGORY = 'duplicate category', ERROR, 'left out; boxes go to the one of its name', ENDS
    DUPLICATE_IMAGE_ID = 'duplicate image id', ERROR, 'left out; of different files all', ENDS
    DUPLICATE_ANNOTATION_ID = 'duplicate annotation id', WARNING, 'used with a new id; a copy is left out', ENDS
    ANNOTATION_ID_0 = 'annotation id 0', WARNING, USED, 'counted as not found'
    FILE_LISTED_TWICE = (
        'file listed twice',
        WARNING,
        'one image with the boxes of both; panoptic ones twice',
        'counted twice',
    )
    UNKNOWN_IMAGE = 'unknown image', ERROR, LEFT_OUT, LEFT_OUT
    UNKNOWN_CATEGORY = 'unknown category', ERROR, LEFT_OUT, LEFT_OUT
    NO_BOX = 'no box', ERROR, LEFT_OUT, ENDS
    DEGENERATE_BOX = 'degenerate box', ERROR, LEFT_OUT, COUNTED
    BOX_OUTSIDE = 'box outside its image', ERROR, LEFT_OUT, COUNTED
    BOX_REACHES_OUT = 'box reaches out of its image', WARNING, USED, COUNTED
    CORNERS = 'corners instead of width and height', WARNING, USED, COUNTED
    NO_AREA = 'no area', WARNING, 'used with the area of its box', COUNTED
    TEXT_FLAG = 'text instead of 0 or 1', WARNING, 'used as the number', 'ends at its start for iscrowd'
    NO_SEGMENTATION = (
        'no segmentation',
        WARNING,
        'box used; ignored where masks are trained',
        'box counted; can end an evaluation of masks at its start',
    )
    NO_SEGMENTS = 'image without segments in the file', ERROR, LEFT_OUT, ENDS
    SECOND_ANNOTATION = 'second annotation of an image', ERROR, LEFT_OUT, ENDS
    DUPLICATE_SEGMENT = 'duplicate segment id', ERROR, LEFT_OUT, ENDS
    SEGMENT_BOX = 'box of a segment', WARNING, 'box of its mask', COUNTED
    SEGMENT_WITHOUT_PIXELS = 'segment without a pixel', ERROR, LEFT_OUT, 'counted as not found'
    UNLISTED_PIXELS = 'pixels of no segment', WARNING, 'belong to no object', COUNTED
    THING_OR_STUFF = 'thing or stuff', ERROR, ENDS, ENDS
    NO_CLASS = 'no class of the config', ERROR, ENDS, ENDS
    MISSING_CLASS = 'class not in the file', ERROR, ENDS, ENDS
    CLASS_ORDER = 'order of the classes', ERROR, ENDS, ENDS
    NUM_CLASSES = 'num_classes', ERROR, 'labels without an output are left out', 'outputs without a class can end it'
    UNUSED_CATEGORY = 'category that the config leaves out', WARNING, LEFT_OUT, LEFT_OUT
    CLASS_WITHOUT_BOXES = 'class without boxes', WARNING, 'not learnt', 'not in the mean AP'
    NO_BOXES = 'no boxes', ERROR, 'learns no object', 'gives an AP of -1'
    IMAGES_WITHOUT_BOXES = 'images without boxes', WARNING, USED, COUNTED
    MORE_OBJECTS = 'more objects than queries', WARNING, 'the objects that cost most are ignored', 'some are not found'
    BROKEN_IMAGE = 'broken image', ERROR, 'another one takes its place', ENDS
    SAME_IMAGE = 'same image under several names', WARNING, 'used several times', 'counted several times'
    TRAINED_ON = 'trained on', ERROR, USED, 'gives too high an AP'

    def __init__(self, label: str, level: str, training: str, evaluation: str) -> None:
        self.label = label
        self.level = level
        self.training = training
        self.evaluation = evaluation
        self.ends_evaluation = evaluation == ENDS

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: what it is.
        reason: the values.
        place: a list of the annotation file, as ``annotations``, or a path.
        index: number of the entry in that list.
        image: id of the image of that entry.
        count: how many there are, where one stands for all.
        evaluated: whether it was found for an evaluation and not for a training.
    """

    kind: Kind
    reason: str
    place: str = ''
    index: int | None = None
    image: int | str | None = None
    count: int = 1
    evaluated: bool = field(default=False, compare=False)

    @property
    def level(self) -> str:
        """ERROR if the data cannot be used, WARNING if it is used and results may suffer."""
        return ERROR if self.evaluated and self.kind.ends_evaluation else self.kind.level

    @property
    def fatal(self) -> bool:
        return self.level == ERROR

    def as_json(self) -> dict[str, str | bool]:
        return {'kind': self.kind.label, 'where': self.where, 'reason': self.reason, 'fatal': self.fatal}

    @property
    def where(self) -> str:
        """The place in words, such as ``annotations[7], image 3``."""
        index = '' if self.index is None else f'[{self.index}]'
        return f'{self.place}{index}' + ('' if self.image is None else f', image {short(self.image)}')

    def __str__(self) -> str:
        return f'{self.where}: {self.kind}: {self.reason}'


def number_of(problems: Iterable[Problem]) -> int:
    """How many there are, also of those that stand for several."""
    return sum(problem.count for problem in problems)


def summary(problems: Iterable[Problem]) -> str:
    """How many there are of each kind, the most frequent first."""
    return ', '.join(f'{number} x {kind}' for kind, number in Counter(p.kind for p in problems).most_common())


def short(value: object) -> str:
    """The value as Python writes it, in 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
