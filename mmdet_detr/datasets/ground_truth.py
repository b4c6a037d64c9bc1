"""Finds what keeps an annotation file from being evaluated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .annotations import Document, is_id, missing_keys
from .problems import Kind, Problem, short

EVALUATED = ('id', 'area', 'iscrowd')  # keys that pycocotools needs and training does not


def evaluation_problems(document: Document, problems: list[Problem], classes: Sequence[str]) -> list[Problem]:
    """Find what keeps a document from being evaluated: pycocotools reads all of the file at the end of an epoch.

    Args:
        document: a document of :func:`read_annotations`.
        problems: what :func:`check_annotations` found in it.
        classes: names of the classes that are evaluated; annotations of others are not looked at.

    Returns:
        What makes pycocotools fail (fatal) or count wrongly.
    """
    categories = [c for c in document['categories'] if isinstance(c, dict) and is_id(c.get('id'))]
    others = {category['id'] for category in categories if category.get('name') not in classes}
    ignored = set()
    found = []
    for i, entry in enumerate(document['annotations']):
        if not isinstance(entry, dict):
            continue
        if is_id(entry.get('category_id')) and entry['category_id'] in others:
            ignored.add(i)
        else:
            found += [replace(problem, place='annotations', index=i) for problem in _of_annotation(entry)]
    for name in ('images', 'categories'):  # pycocotools sorts their ids
        types = {type(entry.get('id')).__name__ for entry in document[name] if isinstance(entry, dict)}
        if len(types) > 1:
            found.append(Problem(Kind.WRONG_TYPE, f'ids of several types: {", ".join(sorted(types))}', name))
    rest = [problem for problem in problems if not (problem.place == 'annotations' and problem.index in ignored)]
    return found + ending_problems(rest)


def ending_problems(problems: list[Problem]) -> list[Problem]:
    """Those among the problems of training that end an evaluation, and are fatal there."""
    return [replace(problem, evaluated=True) for problem in problems if problem.kind.ends_evaluation]


def _of_annotation(entry: dict) -> Iterator[Problem]:
    for problem in missing_keys(entry, *EVALUATED):
        yield replace(problem, reason=f'{problem.reason}; evaluation needs it')
    for key in ('image_id', 'category_id'):
        if not is_id(entry.get(key, 0)):
            yield Problem(Kind.WRONG_TYPE, f'{key} {short(entry[key])}')
    if not isinstance(entry.get('id', 0), int):
        yield Problem(Kind.WRONG_TYPE, f'id {short(entry["id"])}; evaluation needs a number')
    if entry.get('iscrowd', 0) in (None, '0', '1'):  # training takes these
        yield Problem(Kind.WRONG_TYPE, f'iscrowd {short(entry["iscrowd"])} is not 0 or 1')
    if entry.get('id') == 0:
        yield Problem(Kind.ANNOTATION_ID_0, 'pycocotools counts it as not found, but for mmdet_detr.CocoMetric')
