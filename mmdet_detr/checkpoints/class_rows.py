"""Carry the rows of a classifier over to other classes."""

from dataclasses import dataclass

from mmdet.datasets import CocoDataset
from torch import Tensor

from .read import NO_NAME

COCO_NAMES: tuple[str, ...] = tuple(CocoDataset.METAINFO['classes'])
UNUSED_COCO_IDS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(i for i in range(91) if i not in UNUSED_COCO_IDS)
# the official and Hugging Face models have an output for every category id
NAMES_BY_COCO_ID = tuple(
    NO_NAME if i in UNUSED_COCO_IDS else COCO_NAMES[COCO_IDS.index(i)] for i in range(COCO_IDS[-1] + 1)
)


@dataclass(frozen=True)
class ClassRows:
    """Which row of one classifier becomes which row of another.

    Attributes:
        pairs: (row of the model, row of the checkpoint).
        told: how the rows were found, for the report.
        initial: rows of the model that keep their initial values, by name where there are names.
        left: classes of the checkpoint that the model lacks.
    """

    pairs: tuple[tuple[int, int], ...]
    told: str
    initial: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def match_rows(
    num_source: int,
    num_target: int,
    source_classes: tuple[str, ...] | None,
    target_classes: tuple[str, ...] | None,
    num_classes: int,
) -> ClassRows:
    """Find the checkpoint's row for every row of the model.

    Args:
        num_source: rows of the checkpoint's classifier.
        num_target: rows of the model's classifier: ``num_classes``, plus one for no object unless it is sigmoid.
        source_classes: names of the checkpoint's classes; None means COCO for 91 + 1 and, where another number is
            wanted, for 80 + 1 rows.
        target_classes: names of the model's classes; None means COCO where the checkpoint's are and the number fits.
        num_classes: classes of the model.
    """
    if source_classes is None and num_source - 1 == len(NAMES_BY_COCO_ID):
        source_classes = NAMES_BY_COCO_ID
    if source_classes is None and num_source - 1 == len(COCO_NAMES) and (target_classes or num_source != num_target):
        source_classes = COCO_NAMES
    if source_classes and num_source - len(source_classes) not in (0, 1):
        source_classes = None
    if target_classes is None and source_classes in (COCO_NAMES, NAMES_BY_COCO_ID):
        target_classes = {80: COCO_NAMES, len(NAMES_BY_COCO_ID): NAMES_BY_COCO_ID}.get(num_classes)
    if source_classes == target_classes or None in (source_classes, target_classes):
        if num_source == num_target:
            return ClassRows(tuple((i, i) for i in range(num_target)), f'all {num_target} rows as they are')
        source_classes, target_classes = source_classes or (), target_classes or ()
    assert source_classes is not None
    assert target_classes is not None
    rows: dict[str, int] = {}
    for row, name in enumerate(source_classes):
        if name != NO_NAME:
            rows.setdefault(name, row)
    pairs = [(row, rows[name]) for row, name in enumerate(target_classes) if name in rows]
    by = 'COCO category id' if NAMES_BY_COCO_ID in (source_classes, target_classes) else 'name'
    names = target_classes or tuple(f'class {i}' for i in range(num_classes))
    told = f'{len(pairs)} of {num_classes} classes by {by}'
    if num_target > num_classes and num_source > len(source_classes):  # both have a row for no object, the last
        pairs.append((num_target - 1, num_source - 1))
        told += ', and the row of no object'
    return ClassRows(
        tuple(pairs),
        told,
        initial=tuple(name for name in names if name not in rows and name != NO_NAME),
        left=tuple(name for name in rows if name not in target_classes),
    )


def carry_rows(rows: ClassRows, source: Tensor, target: Tensor) -> Tensor:
    """The model's initial rows (K+1, ...), with the checkpoint's in place of those that were found."""
    carried = target.detach().clone()
    for to_row, from_row in rows.pairs:
        carried[to_row] = source[from_row].to(carried)
    return carried
