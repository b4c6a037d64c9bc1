"""Reads COCO's panoptic format as one list of segments and takes out what cannot be used."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .annotations import (
    CategoryCheck,
    Document,
    ImageCheck,
    check_flags,
    first_names,
    is_id,
    is_text,
    leads_outside,
    missing_keys,
    sound_entries,
)
from .boxes import check_box
from .problems import Kind, Problem, short

COLOURS = 256**3  # R + 256 G + 65536 B in the PNG; 0 is VOID


def check_panoptic(
    document: Document, allow_outside: bool = False, labelled: bool = True
) -> tuple[Document, list[Problem]]:
    """Find what is wrong in a panoptic document of :func:`~mmdet_detr.datasets.annotations.read_annotations`.

    Args:
        document: the document; it is not changed. The order of its annotations and its images need not agree.
        allow_outside: whether a ``file_name`` may be absolute or lead out of its folder by ``..``.
        labelled: whether an image without an annotation is a problem; in COCO's test sets it is none.

    Returns:
        A document of the sound entries and the problems. ``annotations`` has one entry a segment, things, stuff and
        crowds alike: ``id`` (unique), ``image_id``, ``category_id``, ``segment_id`` (the colour in the PNG),
        ``iscrowd`` and, where it is sound, ``bbox`` (x, y, width, height in pixels). An image with an annotation has
        the ``file_name`` of that as ``segment_map``.
    """
    problems: list[Problem] = []
    used = {'annotations': list(_given_segments(document)), 'categories': document['categories']}
    of_categories = CategoryCheck(used)
    categories = sound_entries(document['categories'], 'categories', of_categories, problems)
    images = sound_entries(document['images'], 'images', ImageCheck(document['images'], allow_outside), problems)
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    entries = sound_entries(document['annotations'], 'annotations', _Entries(sizes, allow_outside), problems)
    places = {id(entry): i for i, entry in enumerate(document['annotations'])}
    segments: list[dict] = []
    for entry in entries:
        image = entry['image_id']
        place = f'annotations[{places[id(entry)]}].segments_info'
        check = _Segments(image, sizes[image], {category['id'] for category in categories} | of_categories.kept.keys())
        sound = sound_entries(entry['segments_info'], place, check, problems)
        for given in sound:
            category = of_categories.kept.get(given['category_id'], given['category_id'])
            segments.append({**_segment(given, len(segments) + 1, image, check), 'category_id': category})
    maps = {entry['image_id']: entry['file_name'] for entry in entries}
    if labelled:
        problems += _images_without(document['images'], images, maps)
        images = [image for image in images if image['id'] in maps]
    images = [{**image, 'segment_map': maps[image['id']]} if image['id'] in maps else image for image in images]
    return {**document, 'images': images, 'categories': categories, 'annotations': segments}, problems


def restore_panoptic(document: Document) -> Document:
    """A document of :func:`check_panoptic` in COCO's format again; every image in it has to have a ``segment_map``."""
    segments: dict[Any, list[dict]] = {image['id']: [] for image in document['images']}
    for entry in document['annotations']:
        rest = {key: value for key, value in entry.items() if key not in ('id', 'segment_id', 'image_id')}
        segments[entry['image_id']].append({'id': entry['segment_id'], **rest})
    return {
        **document,
        'images': [{k: v for k, v in image.items() if k != 'segment_map'} for image in document['images']],
        'annotations': [
            {'image_id': i['id'], 'file_name': i['segment_map'], 'segments_info': segments[i['id']]}
            for i in document['images']
        ],
    }


def split_classes(
    categories: list[dict],
    classes: Sequence[str],
    thing_classes: Sequence[str] | None = None,
    stuff_classes: Sequence[str] | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...], list[Problem]]:
    """Say by name which classes are things and which are stuff.

    Args:
        categories: those of the file; ``isthing`` may be missing if the config names things or stuff.
        classes: names of the classes of the config, in the order of their labels.
        thing_classes: names of things in the config; None if it has none.
        stuff_classes: names of stuff, likewise. If only one of the two is given, all other classes are the other.

    Returns:
        Names of things, names of stuff, and problems, which are all fatal: classes are neither, the file and the config
        differ, a name of the config that decides is no category, or stuff comes before a thing, although the first
        labels belong to things.
    """
    flags = {category['name']: category.get('isthing') for category in categories}
    kinds: dict[str, bool] = {}
    unknown, differ = [], []
    for name in classes:
        in_file = bool(flags.get(name)) if flags.get(name) in (0, 1) else None
        in_config = _thing_in_config(name, thing_classes, stuff_classes)
        if in_file is None and in_config is None:
            unknown.append(name)
            continue
        if in_config is not None and in_file not in (None, in_config):
            differ.append(name)
        kinds[name] = bool(in_file if in_config is None else in_config)
    named = {*(thing_classes or ()), *(stuff_classes or ())}
    guessed = [name for name in classes if flags.get(name) not in (0, 1) and name not in named]
    strangers = sorted(named - flags.keys() - set(classes))
    order = list(kinds)
    silent = [name for name in unknown if name in flags]  # check_classes names those that are not in the file
    problems = []
    if silent:
        problems.append(
            f'no isthing of 0 or 1, nor in thing_classes or stuff_classes of metainfo: {first_names(silent)}'
        )
    if guessed and strangers and not silent:  # a wrong name makes its class the other kind
        problems.append(f'thing_classes or stuff_classes of metainfo name no category: {first_names(strangers)}')
    if differ:
        problems.append(f'isthing is the opposite of what metainfo says: {first_names(differ)}')
    if not problems and sorted(order, key=lambda name: not kinds[name]) != order:
        stuff = next(name for name in order if not kinds[name])
        thing = next(name for name in order[order.index(stuff) :] if kinds[name])
        problems.append(f'things come first in classes of metainfo, and {stuff} is stuff before the thing {thing}')
    things, stuffs = (tuple(name for name in order if kinds[name] is flag) for flag in (True, False))
    return things, stuffs, [Problem(Kind.THING_OR_STUFF, reason, 'categories') for reason in problems]


def of_classes(document: Document, classes: Sequence[str]) -> tuple[Document, Counter]:
    """Keep the categories of some classes, in their order, and the segments of these.

    Returns:
        The document of :func:`check_panoptic` with that, and how many segments of each other category it had.
    """
    by_name = {category['name']: category for category in document['categories']}
    kept = [by_name[name] for name in classes if name in by_name]
    ids = {category['id'] for category in kept}
    names = {category['id']: category['name'] for category in document['categories']}
    segments = [entry for entry in document['annotations'] if entry['category_id'] in ids]
    others = Counter(names[e['category_id']] for e in document['annotations'] if e['category_id'] not in ids)
    return {**document, 'categories': kept, 'annotations': segments}, others


def _thing_in_config(name: str, things: Sequence[str] | None, stuff: Sequence[str] | None) -> bool | None:
    if things is not None and (name in things or stuff is None):
        return name in things
    if stuff is not None and (name in stuff or things is None):
        return name not in stuff
    return None


def _given_segments(document: Document) -> Iterator[dict]:
    """Whatever looks like a segment."""
    for entry in document['annotations']:
        segments = entry.get('segments_info') if isinstance(entry, dict) else None
        if isinstance(segments, list):
            yield from (segment for segment in segments if isinstance(segment, dict))


class _Entries:
    def __init__(self, sizes: dict[int | str, tuple[int, int]], allow_outside: bool) -> None:
        self.sizes = sizes
        self.allow_outside = allow_outside
        self.images: set[int | str] = set()

    def __call__(self, entry: dict) -> Iterator[Problem]:
        missing = list(missing_keys(entry, 'image_id', 'file_name', 'segments_info'))
        if missing:
            yield from missing
            return
        image, name = entry['image_id'], entry['file_name']
        if not is_id(image) or image not in self.sizes:
            yield Problem(Kind.UNKNOWN_IMAGE, f'image_id {short(image)}')
            return
        if not isinstance(entry['segments_info'], list):
            yield Problem(Kind.WRONG_TYPE, f'segments_info {short(entry["segments_info"])}', image=image)
        elif not is_text(name) or not name or '\0' in name:
            yield Problem(Kind.WRONG_TYPE, f'file_name {short(name)}', image=image)
        elif not self.allow_outside and leads_outside(name):
            yield Problem(Kind.OUTSIDE_FOLDER, f'file_name {short(name)}', image=image)
        elif image in self.images:
            yield Problem(Kind.SECOND_ANNOTATION, f'file_name {short(name)}', image=image)
        else:
            self.images.add(image)


class _Segments:
    """Checks the segments of one image; ``boxes`` then has the ids of those with a sound box."""

    def __init__(self, image: int | str, size: tuple[int, int], categories: set[int | str]) -> None:
        self.image = image
        self.size = size
        self.categories = categories
        self.ids: set[int] = set()
        self.boxes: set[int] = set()

    def __call__(self, entry: dict) -> Iterator[Problem]:
        return (replace(problem, image=self.image) for problem in self._problems(entry))

    def _problems(self, entry: dict) -> Iterator[Problem]:
        missing = list(missing_keys(entry, 'id', 'category_id'))
        if missing:
            yield from missing
            return
        number, category = entry['id'], entry['category_id']
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < COLOURS:
            yield Problem(Kind.WRONG_TYPE, f'id {short(number)} is no number of 1 to {COLOURS - 1}')
            return
        if number in self.ids:
            yield Problem(Kind.DUPLICATE_SEGMENT, str(number))
        self.ids.add(number)
        if not is_id(category) or category not in self.categories:
            yield Problem(Kind.UNKNOWN_CATEGORY, f'category_id {short(category)} of segment {number}')
        yield from check_flags(entry, 'iscrowd')
        if entry.get('bbox') is None:
            return
        problem = check_box(entry['bbox'], *self.size)
        if problem and problem.fatal:
            yield Problem(Kind.SEGMENT_BOX, f'segment {number}: {problem.kind}: {problem.reason}')
            return
        self.boxes.add(number)
        if problem:
            yield problem


def _segment(given: dict, number: int, image: int | str, check: _Segments) -> dict:
    """A sound segment as an entry of its own."""
    rest = {key: value for key, value in given.items() if key != 'bbox' or given['id'] in check.boxes}
    flag = int(given.get('iscrowd') or 0)
    return {**rest, 'id': number, 'segment_id': given['id'], 'image_id': image, 'iscrowd': flag}


def _images_without(given: list, images: list[dict], maps: dict) -> Iterator[Problem]:
    """Images in the order of the file that no sound annotation belongs to."""
    sound = {id(image) for image in images}
    for i, image in enumerate(given):
        if id(image) in sound and image['id'] not in maps:
            reason = 'no annotation has its id as image_id'
            yield Problem(Kind.NO_SEGMENTS, reason, 'images', i, image['id'])
