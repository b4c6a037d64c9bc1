"""What keeps an annotation file from being evaluated."""

from collections.abc import Sequence

from .annotations import Document, Problem, is_id, missing_keys, short

EVALUATED = ('id', 'area', 'iscrowd')  # what else pycocotools needs of an annotation
# what it cannot read; other entries that training leaves out, it counts as they are
NOT_TO_EVALUATE = {
    'missing key',
    'wrong type',
    'no object',
    'no box',
    'duplicate category',
    'duplicate image id',
    'duplicate annotation id',
    'outside the data',
}


def evaluation_problems(document: Document, problems: list[Problem], classes: Sequence[str]) -> list[Problem]:
    """What keeps a document from being evaluated, which pycocotools does with all of it at the end of an epoch.

    Args:
        document: a document of :func:`read_annotations`.
        problems: those that :func:`check_annotations` found in it.
        classes: names of the classes that are evaluated; annotations of others are not looked at.

    Returns:
        What makes pycocotools fail (fatal), or count wrongly.
    """
    categories = [c for c in document['categories'] if isinstance(c, dict) and is_id(c.get('id'))]
    others = {category['id'] for category in categories if category.get('name') not in classes}
    ignored = set()
    found = []
    for i, entry in enumerate(document['annotations']):
        where = f'annotations[{i}]'
        if not isinstance(entry, dict):
            continue
        if is_id(entry.get('category_id')) and entry['category_id'] in others:
            ignored.add(where)
            continue
        found += [
            Problem(p.kind, where, f'{p.reason}, which evaluation needs') for p in missing_keys(entry, *EVALUATED)
        ]
        for key in ('image_id', 'category_id'):
            if not is_id(entry.get(key, 0)):
                found.append(Problem('wrong type', where, f'{key} {short(entry[key])}'))
        if not isinstance(entry.get('id', 0), int):
            found.append(Problem('wrong type', where, f'id {short(entry["id"])}, which evaluation needs as a number'))
        if entry.get('iscrowd', 0) not in (0, 1):
            found.append(Problem('wrong type', where, f'iscrowd {short(entry["iscrowd"])} is not 0 or 1'))
        if entry.get('id') == 0:
            found.append(Problem('annotation id 0', where, 'which evaluation counts as not found', fatal=False))
    for name in ('images', 'categories'):  # which it sorts
        kinds = {type(entry.get('id')).__name__ for entry in document[name] if isinstance(entry, dict)}
        if len(kinds) > 1:
            found.append(Problem('wrong type', name, f'ids of several types: {", ".join(sorted(kinds))}'))
    fatal = [Problem(p.kind, p.where, p.reason) for p in problems if p.kind in NOT_TO_EVALUATE]
    return found + [problem for problem in fatal if problem.where.split(',')[0] not in ignored]
