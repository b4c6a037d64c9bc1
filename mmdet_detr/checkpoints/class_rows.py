"""Take over the rows of a classifier for other classes."""

from typing import NamedTuple

from mmdet.datasets import CocoDataset
from torch import Tensor

NO_NAME = 'N/A'  # Hugging Face's name of COCO's unused category ids
COCO_NAMES: tuple[str, ...] = tuple(CocoDataset.METAINFO['classes'])
UNUSED_COCO_IDS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(i for i in range(91) if i not in UNUSED_COCO_IDS)
# The official and Hugging Face models have an output for every category id.
NAMES_BY_COCO_ID = tuple(COCO_NAMES[COCO_IDS.index(i)] if i in COCO_IDS else NO_NAME for i in range(91))
NUM_PANOPTIC_IDS = 250  # outputs of the official panoptic models: category ids of things, then of stuff


class ClassRows(NamedTuple):
    """Which row of one classifier becomes which row of another."""

    pairs: tuple[tuple[int, int], ...]  # (row of the model, row of the checkpoint)
    summary: str  # how the rows were found, for the report
    classes: tuple[str, ...] | None = None  # names of the model's classes, if they are known
    initial: tuple[str, ...] = ()  # rows of the model that keep their initial values, by name if there are names
    left: tuple[str, ...] = ()  # classes of the checkpoint that the model lacks


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
        source_classes: names of the checkpoint's classes; None means COCO for the numbers of rows of the published
            models, unless the model's classes have nothing in common with COCO.
        target_classes: names of the model's classes; None means COCO if the checkpoint's are and the number fits.
        num_classes: classes of the model.
    """
    source_classes = _source_names(num_source, source_classes, target_classes)
    if target_classes is None and (_by_coco_id(source_classes) or source_classes == COCO_NAMES):
        target_classes = {len(COCO_NAMES): COCO_NAMES, len(NAMES_BY_COCO_ID): NAMES_BY_COCO_ID}.get(num_classes)
    same_kind = source_classes is None or num_source - len(source_classes) == num_target - num_classes
    same_names = source_classes == target_classes or not (source_classes and target_classes)
    if num_source == num_target and same_kind and same_names:
        pairs = tuple((i, i) for i in range(num_target))
        return ClassRows(pairs, f'all {num_target} rows as they are', target_classes or source_classes)
    by = 'COCO category id' if _by_coco_id(source_classes) or _by_coco_id(target_classes) else 'name'
    names = target_classes or tuple(f'class {i}' for i in range(num_classes))
    rows: dict[str, int] = {}
    for row, name in enumerate(source_classes or ()):
        if name != NO_NAME:
            rows.setdefault(name, row)
    pairs = tuple((row, rows[name]) for row, name in enumerate(names) if name in rows)
    summary = f'{len(pairs)} of {num_classes} classes by {by}'
    initial = tuple(name for name in names if name not in rows and name != NO_NAME)
    if num_target > num_classes:  # the last row is for no object
        if source_classes is None or num_source > len(source_classes):
            pairs += ((num_target - 1, num_source - 1),)
            summary += ', and the row of no object'
        else:
            initial += ('no object',)
    return ClassRows(pairs, summary, target_classes, initial, tuple(name for name in rows if name not in names))


def _by_coco_id(classes: tuple[str, ...] | None) -> bool:
    return classes is not None and classes[: len(NAMES_BY_COCO_ID)] == NAMES_BY_COCO_ID


def _source_names(
    num_rows: int, classes: tuple[str, ...] | None, target_classes: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Names of the checkpoint's rows: the given ones if they fit, else COCO's if the number is COCO's."""
    if classes and num_rows - len(classes) in (0, 1):
        ids = len(NAMES_BY_COCO_ID)
        if len(classes) >= ids and all(classes[i] == name for i, name in zip(COCO_IDS, COCO_NAMES, strict=True)):
            return NAMES_BY_COCO_ID + classes[ids:]  # published models name unused ids, too: "street sign"
        return classes
    unnamed = (NO_NAME,) * (NUM_PANOPTIC_IDS - len(NAMES_BY_COCO_ID))
    published = {len(names) + 1: names for names in (COCO_NAMES, NAMES_BY_COCO_ID, NAMES_BY_COCO_ID + unnamed)}
    names = published.get(num_rows)
    return names if names and (target_classes is None or set(names) & set(target_classes)) else None


def carry_rows(rows: ClassRows, source: Tensor, target: Tensor) -> Tensor:
    """The model's initial rows (K+1, ...), with the rows of the checkpoint for the classes that both have."""
    carried = target.detach().clone()
    for to_row, from_row in rows.pairs:
        carried[to_row] = source[from_row].to(carried)
    return carried
