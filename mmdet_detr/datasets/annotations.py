"""Reads a COCO annotation file and takes out what cannot be used."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import ConfigError
from .boxes import check_box, check_corners, is_finite
from .problems import Kind, Problem, short

Document = dict[str, Any]
LISTS = ('images', 'annotations', 'categories')
FLAGS = ('iscrowd', 'ignore')
LISTED_TWICE = (Kind.DUPLICATE_CATEGORY, Kind.DUPLICATE_ANNOTATION_ID, Kind.FILE_LISTED_TWICE)
FARTHEST_CORNER = 1e6  # pixels; pycocotools draws every pixel of an edge, also outside the image


class AnnotationError(ConfigError):
    """Nothing of an annotation file can be used; the message is one line that says why."""


def read_annotations(path: Path | str, labelled: bool = True) -> Document:
    """Read a COCO file.

    Args:
        path: the file.
        labelled: whether there have to be annotations; COCO's test sets have none.

    Returns:
        The document: a dict with the lists ``images``, ``annotations`` and ``categories``.

    Raises:
        AnnotationError: the file cannot be read, is no JSON in UTF-8 (pycocotools reads no other), or does not have
            these lists.
    """
    try:
        document = json.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise AnnotationError(f'{path}: {error.strerror}') from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise AnnotationError(f'{path} is no JSON in UTF-8: {error}') from error
    if not isinstance(document, dict):
        raise AnnotationError(f'{path} holds a {type(document).__name__}, not the object of a COCO file')
    if not labelled:
        document.setdefault('annotations', [])
    for name in LISTS:
        if not isinstance(document.get(name), list):
            raise AnnotationError(f'{path} has no list of {name}, which every COCO file has: is it the right file?')
    return document


def check_annotations(
    document: Document, allow_outside: bool = False, masks: bool = False, join: bool = True
) -> tuple[Document, list[Problem]]:
    """Find what is wrong in a document of :func:`read_annotations`.

    Args:
        document: the document; it is not changed.
        allow_outside: whether a ``file_name`` may be absolute or lead out of the image folder by ``..``.
        masks: whether an annotation without any segmentation is a problem, too.
        join: whether a file that is listed under several ids becomes one image with the objects of all.

    Returns:
        A document of the sound entries, where ids of annotations are unique and every annotation has an ``area`` and
        an ``iscrowd``, and the problems in the order of the file. Categories of one name are one category.
    """
    problems: list[Problem] = []
    of_categories, of_images = CategoryCheck(document), ImageCheck(document['images'], allow_outside)
    categories = sound_entries(document['categories'], 'categories', of_categories, problems)
    images = sound_entries(document['images'], 'images', of_images, problems)
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    check = _Annotations(sizes, [*categories, *({'id': number} for number in of_categories.kept)], masks)
    annotations = sound_entries(document['annotations'], 'annotations', check, problems)
    same_images = of_images.kept if join else {}
    images = [image for image in images if image['id'] not in same_images]
    if any(problem.kind in LISTED_TWICE for problem in problems):
        annotations = list(_joined(annotations, same_images, of_categories.kept))
    problems += check_corners(annotations, sizes)
    completed = [_completed(entry, i, sizes[entry['image_id']]) for i, entry in enumerate(annotations, 1)]
    return {**document, 'images': images, 'categories': categories, 'annotations': completed}, problems


def sound_entries(
    entries: list, place: str, check: Callable[[dict], Iterator[Problem]], problems: list[Problem]
) -> list[dict]:
    """The entries of a list in which a check finds nothing fatal; all that it finds is appended to ``problems``."""
    kept = []
    for i, entry in enumerate(entries):
        if isinstance(entry, dict):
            found = list(check(entry))
        else:
            found = [Problem(Kind.NO_OBJECT, f'a {type(entry).__name__}')]
        problems.extend(replace(problem, place=place, index=i) for problem in found)
        if not any(problem.fatal for problem in found):
            kept.append(entry)
    return kept


def check_classes(document: Document, classes: Sequence[str], in_order: bool = True) -> list[Problem]:
    """Find classes that would get the labels of others, since mmdet numbers them in the order of the file.

    Args:
        document: a document of :func:`check_annotations`.
        classes: names of the classes in the order of their labels.
        in_order: whether the file has to list them in this order.

    Returns:
        One problem at most; it is fatal.
    """
    names = [category['name'] for category in document['categories']]
    missing = [name for name in classes if name not in names]
    ordered = [name for name in names if name in classes]
    if missing:
        kind = Kind.NO_CLASS if len(missing) == len(classes) else Kind.MISSING_CLASS
        return [Problem(kind, f'{first_names(missing)}; the file has {first_names(names)}', 'categories')]
    if in_order and ordered != list(classes):
        reason = f'the file has {first_names(ordered)}, the config {first_names(classes)}: labels get other names'
        return [Problem(Kind.CLASS_ORDER, reason, 'categories')]
    return []


def require_names(classes: Any) -> None:
    """Refuse one name in the place of several: mmdet would take its letters for classes.

    Raises:
        ConfigError: the classes are a string.
    """
    if isinstance(classes, str):
        raise ConfigError(f'classes={classes!r} is a string and no tuple: write classes=({classes!r},), with the comma')


def first_names(names: Sequence[str]) -> str:
    """At most eight of some names, for a message."""
    return ', '.join([*names[:8], *(['...'] if len(names) > 8 else [])])


def is_id(value: object) -> bool:
    """Whether this is an id that pycocotools takes: an integer or a string."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether this is a string that can be written; JSON can hold others."""
    return isinstance(value, str) and value == value.encode(errors='replace').decode()


def missing_keys(entry: dict, *names: str) -> Iterator[Problem]:
    """A problem for each name that an entry does not have."""
    return (Problem(Kind.MISSING_KEY, name) for name in names if name not in entry)


class CategoryCheck:
    """Checks the categories of a file one by one; annotations tell which of two equal ones is used.

    ``kept`` then has the id of the category that takes the objects of another one with its name, by the other one's id.
    """

    def __init__(self, document: Document) -> None:
        used = [e.get('category_id') for e in document['annotations'] if isinstance(e, dict)]
        self.used = set(filter(is_id, used))
        categories = [c for c in document['categories'] if isinstance(c, dict) and is_id(c.get('id'))]
        self.names_used = {repr(c.get('name')) for c in categories if c['id'] in self.used}
        self.ids: set[int | str] = set()
        self.names: dict[str, int | str] = {}
        self.kept: dict[int | str, int | str] = {}

    def __call__(self, entry: dict) -> Iterator[Problem]:
        missing = list(missing_keys(entry, 'id', 'name'))
        if missing:
            yield from missing
            return
        number, name = entry['id'], entry['name']
        if not is_id(number) or not is_text(name):
            yield Problem(Kind.WRONG_TYPE, f'id {short(number)}, name {short(name)}')
            return
        # Some tools write a root category without boxes that has the name of a class.
        unused = number not in self.used and repr(name) in self.names_used
        if number in self.ids or name in self.names or unused:
            yield Problem(Kind.DUPLICATE_CATEGORY, f'id {short(number)}, name {short(name)}')
            if number not in self.ids and not unused:
                self.kept[number] = self.names[name]
        elif not unused:
            self.names[name] = number
        self.ids.add(number)


class ImageCheck:
    """Checks the images of a file one by one.

    ``kept`` then has the id of the image that takes the objects of another entry of its file and size, by the other
    one's id.
    """

    def __init__(self, images: list, allow_outside: bool) -> None:
        self.allow_outside = allow_outside
        self.ids: set[int | str] = set()
        self.files: dict[str, dict] = {}
        self.kept: dict[int | str, int | str] = {}
        self.names: dict[int | str, set[str]] = defaultdict(set)
        for image in images:
            if isinstance(image, dict) and is_id(image.get('id')) and is_text(image.get('file_name')):
                self.names[image['id']].add(image['file_name'])

    def __call__(self, entry: dict) -> Iterator[Problem]:
        found = list(self._problems(entry))
        if not any(problem.fatal for problem in found):
            first = self.files.setdefault(entry['file_name'], entry)
            if first is not entry and all(first[side] == entry[side] for side in ('height', 'width')):
                self.kept[entry['id']] = first['id']
            self.ids.add(entry['id'])
        return iter(found)

    def _problems(self, entry: dict) -> Iterator[Problem]:
        yield from missing_keys(entry, 'id', 'file_name', 'height', 'width')
        number, name = entry.get('id', 0), entry.get('file_name', 'none')
        if not is_id(number):
            yield Problem(Kind.WRONG_TYPE, f'id {short(number)}')
        elif 'id' in entry and len(self.names[number]) > 1:  # nobody knows which of them an object is in
            yield Problem(Kind.DUPLICATE_IMAGE_ID, f'{short(number)}, of {first_names(sorted(self.names[number]))}')
        elif number in self.ids and 'id' in entry:
            yield Problem(Kind.DUPLICATE_IMAGE_ID, short(number))
        for side in ('height', 'width'):
            length = entry.get(side, 1)
            if not is_finite(length) or length < 1 or length != int(length):
                yield Problem(Kind.WRONG_TYPE, f'{side} {short(length)} is no number of pixels')
        if not is_text(name) or not name or '\0' in name:
            yield Problem(Kind.WRONG_TYPE, f'file_name {short(name)}')
            return
        if not self.allow_outside and leads_outside(name):
            yield Problem(Kind.OUTSIDE_FOLDER, f'file_name {short(name)}')
        if 'file_name' in entry and name in self.files:
            yield Problem(Kind.FILE_LISTED_TWICE, short(name))


def check_flags(entry: dict, *names: str) -> Iterator[Problem]:
    """A problem for each name whose value is no flag; a missing one counts as 0."""
    for name in names:
        if (value := entry.get(name)) in ('0', '1'):
            yield Problem(Kind.TEXT_FLAG, f'{name} {short(value)}')
        elif value not in (None, 0, 1):
            yield Problem(Kind.WRONG_TYPE, f'{name} {short(value)} is not 0 or 1')


def leads_outside(name: str) -> bool:
    """Whether a file name is absolute or leads out of the folder that it is joined to."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or '://' in name:
        return True
    depth = 0
    for part in name.replace('\\', '/').split('/'):
        depth += {'..': -1, '.': 0, '': 0}.get(part, 1)
        if depth < 0:
            return True
    return False


class _Annotations:
    def __init__(self, sizes: dict[int | str, tuple[int, int]], categories: list[dict], masks: bool) -> None:
        self.sizes = sizes
        self.masks = masks
        self.categories = {category['id'] for category in categories}
        self.ids: set[int | str] = set()

    def __call__(self, entry: dict) -> Iterator[Problem]:
        missing = list(missing_keys(entry, 'image_id', 'category_id', 'bbox'))
        if missing:
            yield from missing
            return
        image, number = entry['image_id'], entry.get('id', 0)
        if not is_id(number):
            yield Problem(Kind.WRONG_TYPE, f'id {short(number)}')
        elif 'id' in entry:
            if number in self.ids:
                yield Problem(Kind.DUPLICATE_ANNOTATION_ID, short(number))
            self.ids.add(number)
        if not is_id(image) or image not in self.sizes:
            yield Problem(Kind.UNKNOWN_IMAGE, f'image_id {short(image)}')
            return
        yield from (replace(problem, image=image) for problem in self._values(entry, self.sizes[image]))

    def _values(self, entry: dict, size: tuple[int, int]) -> Iterator[Problem]:
        category = entry['category_id']
        if not is_id(category) or category not in self.categories:
            yield Problem(Kind.UNKNOWN_CATEGORY, f'category_id {short(category)}')
        yield from check_flags(entry, *FLAGS)
        if 'area' in entry and not is_finite(entry['area']):
            yield Problem(Kind.WRONG_TYPE, f'area {short(entry["area"])}')
        elif entry.get('area', 1) <= 0:
            yield Problem(Kind.NO_AREA, f'area {entry["area"]:g}; trained on as width x height')
        if problem := check_box(entry['bbox'], *size):
            yield problem
        segmentation = entry.get('segmentation')
        sound = _sound_segmentation(segmentation, size)
        if (segmentation is not None and segmentation != sound) or (self.masks and not sound):
            yield Problem(Kind.NO_SEGMENTATION, short(segmentation))


def _is_polygon(value: object) -> bool:
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        return False
    return all(is_finite(number) and abs(number) < FARTHEST_CORNER for number in value)


def _are_run_lengths(value: object, size: tuple[int, int]) -> bool:
    """Whether these are run lengths of an image of (width, height)."""
    if not isinstance(value, dict) or value.get('size') != [size[1], size[0]]:
        return False
    counts = value.get('counts')
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    if not isinstance(counts, list):
        return False
    return all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == size[0] * size[1]


def _run_lengths(text: str) -> list[int]:
    """The lengths in COCO's compressed text, as ``rleFrString`` of pycocotools reads them, which trusts any text.

    A character less 48 holds five bits of a number, the lowest first; its sixth bit says that the number goes on. From
    the fourth on, numbers are differences to the length before the last one.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift  # the sign
        lengths.append(number + lengths[-2] if len(lengths) > 2 else number)
        number = shift = 0
    return lengths if shift == 0 else []


def _sound_segmentation(value: object, size: tuple[int, int]) -> Any:
    """The run lengths or the polygons that masks can be made of; without any, an empty list."""
    if _are_run_lengths(value, size):
        return value
    return [polygon for polygon in value if _is_polygon(polygon)] if isinstance(value, list) else []


def _joined(
    annotations: list[dict], images: dict[int | str, int | str], categories: dict[int | str, int | str]
) -> Iterator[dict]:
    """Sound annotations without copies, with the ids of the images and the categories that take their objects."""
    of_several = {*images, *images.values()}
    numbers = Counter(entry['id'] for entry in annotations if 'id' in entry)
    seen = set()
    for entry in annotations:
        image, category = entry['image_id'], entry['category_id']
        joined = {'image_id': images.get(image, image), 'category_id': categories.get(category, category)}
        # Equal entries may be two objects; under one id, or in two lists of an image's objects, they are one.
        number = '' if image in of_several else entry.get('id')
        if image in of_several or numbers[number] > 1:
            key = json.dumps({**entry, **joined, 'id': number}, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
        yield {**entry, **joined}


def _completed(entry: dict, number: int, size: tuple[int, int]) -> dict:
    """A sound annotation with what pycocotools and mmdet need of it."""
    _, _, w, h = entry['bbox']
    area = entry.get('area', 0)
    return {
        'iscrowd': 0,
        **entry,
        **{key: int(entry[key] or 0) for key in FLAGS if key in entry},
        'id': number,
        'area': area if area > 0 else w * h,  # mmdet leaves out annotations without area
        'segmentation': _sound_segmentation(entry.get('segmentation'), size),
    }
