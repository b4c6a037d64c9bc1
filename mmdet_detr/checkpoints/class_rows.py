"""Take over the rows of a classifier for other classes."""

from typing import NamedTuple

from mmdet.datasets import CocoDataset, CocoPanopticDataset
from torch import Tensor

NO_NAME = 'N/A'  # Hugging Face's name of COCO's unused category ids
COCO_NAMES: tuple[str, ...] = tuple(CocoDataset.METAINFO['classes'])
UNUSED_COCO_IDS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(i for i in range(91) if i not in UNUSED_COCO_IDS)
PANOPTIC_NAMES: tuple[str, ...] = tuple(CocoPanopticDataset.METAINFO['classes'])  # COCO's 80 classes, then 53 of stuff
STUFF_IDS = (
    92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154, 155,
    156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201),
)  # fmt: skip
PANOPTIC_IDS = (*COCO_IDS, *STUFF_IDS)


def _names_by_id(number: int) -> tuple[str, ...]:
    names = dict(zip(PANOPTIC_IDS, PANOPTIC_NAMES, strict=True))
    return tuple(names.get(i, NO_NAME) for i in range(number))


# The official and Hugging Face models have an output for every category id; the panoptic ones have 250 for 200 ids.
NAMES_BY_COCO_ID = _names_by_id(91)
NAMES_BY_PANOPTIC_ID = _names_by_id(250)
PUBLISHED = {
    len(names): names for names in (COCO_NAMES, NAMES_BY_COCO_ID, PANOPTIC_NAMES, NAMES_BY_PANOPTIC_ID)
}  # names of the classes of published models, by their number


class ClassRows(NamedTuple):
    """Which row of one classifier becomes which row of another."""

    pairs: tuple[tuple[int, int], ...]  # (row of the model, row of the checkpoint)
    summary: str  # how the rows were found, for the report
    classes: tuple[str, ...] | None = None  # names of the model's classes, if they are known
    initial: tuple[str, ...] = ()  # rows of the model that keep their initial values, by name if there are names
    left: tuple[str, ...] = ()  # classes of the checkpoint that the model lacks
    guessed: bool = False  # the checkpoint's classes are taken for COCO's by their number alone


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
    named = _named_rows(num_source, source_classes)
    source_classes = named or _guessed_rows(num_source, target_classes)
    guessed = named is None and source_classes is not None
    if target_classes is None and (_by_coco_id(source_classes) or source_classes in PUBLISHED.values()):
        target_classes = PUBLISHED.get(num_classes)
    same_kind = source_classes is None or num_source - len(source_classes) == num_target - num_classes
    same_names = source_classes == target_classes or not (source_classes and target_classes)
    if num_source == num_target and same_kind and same_names:
        pairs = tuple((i, i) for i in range(num_target))
        classes = target_classes or source_classes
        return ClassRows(pairs, f'all {num_target} rows as they are', classes, guessed=guessed)
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
    left = tuple(name for name in rows if name not in names)
    return ClassRows(pairs, summary, target_classes, initial, left, guessed)


def _by_coco_id(classes: tuple[str, ...] | None) -> bool:
    return classes is not None and classes[: len(NAMES_BY_COCO_ID)] == NAMES_BY_COCO_ID


def _named_rows(num_rows: int, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of the checkpoint's rows, if the file has some that fit their number."""
    if not classes or num_rows - len(classes) not in (0, 1):
        return None
    ids = len(NAMES_BY_COCO_ID)
    if len(classes) >= ids and all(classes[i] == name for i, name in zip(COCO_IDS, COCO_NAMES, strict=True)):
        # Published models name unused ids, too: "street sign".
        by_id = NAMES_BY_PANOPTIC_ID if len(classes) == len(NAMES_BY_PANOPTIC_ID) else NAMES_BY_COCO_ID
        return by_id + classes[len(by_id) :]
    return classes


def _guessed_rows(num_rows: int, target_classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """COCO's names, if the number is that of a published model and the model's classes are not all unknown to COCO."""
    names = PUBLISHED.get(num_rows - 1)
    return names if names and (target_classes is None or set(names) & set(target_classes)) else None


def carry_rows(rows: ClassRows, source: Tensor, target: Tensor) -> Tensor:
    """The model's initial rows (K+1, ...), with the rows of the checkpoint for the classes that both have."""
    carried = target.detach().clone()
    for to_row, from_row in rows.pairs:
        carried[to_row] = source[from_row].to(carried)
    return carried
