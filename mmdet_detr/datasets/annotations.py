"""What is wrong with a COCO annotation file, and what is left of it without that."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import ConfigError

Document = dict[str, Any]
LISTS = ('images', 'annotations', 'categories')


class AnnotationError(ConfigError):
    """An annotation file of which nothing can be used; one line says why."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: what it is, in the words that the reports count.
        where: entry of the file, as ``annotations[7]``, or an image.
        reason: the values.
        fatal: whether the entry is left out; else it is used, and training may suffer.
    """

    kind: str
    where: str
    reason: str
    fatal: bool = True

    def __str__(self) -> str:
        return f'{self.where}: {self.kind}: {self.reason}'


def read_annotations(path: Path | str, labelled: bool = True) -> Document:
    """Read a COCO file.

    Args:
        path: the file.
        labelled: whether there have to be annotations; COCO's test sets have none.

    Returns:
        The document: a dict with the lists ``images``, ``annotations`` and ``categories``.

    Raises:
        AnnotationError: the file cannot be read, is no JSON in UTF-8, as which pycocotools reads it, or has not that
            structure.
    """
    try:
        document = json.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise AnnotationError(f'{path}: {error.strerror}') from error
    except (ValueError, RecursionError) as error:  # of which JSONDecodeError and UnicodeDecodeError are two
        raise AnnotationError(f'{path} is no JSON in UTF-8: {error}') from error
    if not isinstance(document, dict):
        raise AnnotationError(f'{path} holds a {type(document).__name__}, not the object of a COCO file')
    if not labelled:
        document.setdefault('annotations', [])
    for name in LISTS:
        if not isinstance(document.get(name), list):
            raise AnnotationError(f'{path} has no list of {name}')
    return document


def check_annotations(document: Document, allow_outside: bool = False) -> tuple[Document, list[Problem]]:
    """Find what is wrong in a document of :func:`read_annotations`.

    Args:
        document: the document, which stays as it is.
        allow_outside: whether a ``file_name`` may be absolute or lead out of the image folder by ``..``.

    Returns:
        A document of the sound entries, in which ids of annotations are unique and every annotation has an ``area`` and
        an ``iscrowd``, and the problems in the order of the file.
    """
    problems: list[Problem] = []

    def sound(name: str, check: Callable[[Any], Iterator[Problem]]) -> list[dict]:
        kept = []
        for i, entry in enumerate(document[name]):
            if isinstance(entry, dict):
                found = [Problem(p.kind, f'{name}[{i}]{p.where}', p.reason, p.fatal) for p in check(entry)]
            else:
                found = [Problem('no object', f'{name}[{i}]', f'a {type(entry).__name__}')]
            problems.extend(found)
            if not any(problem.fatal for problem in found):
                kept.append(entry)
        return kept

    categories = sound('categories', _Categories())
    images = sound('images', _Images(allow_outside))
    annotations = sound('annotations', _Annotations(images, categories))
    clean = {**document, 'images': images, 'categories': categories, 'annotations': _completed(annotations, images)}
    return clean, problems


def check_classes(document: Document, classes: Sequence[str]) -> list[Problem]:
    """Find classes whose labels would be those of others, since mmdet numbers them in the order of the file.

    Args:
        document: a document of :func:`check_annotations`.
        classes: names of the classes in the order of their labels.

    Returns:
        One problem at most, which is fatal.
    """
    names = [category['name'] for category in document['categories']]
    missing = [name for name in classes if name not in names]
    ordered = [name for name in names if name in classes]
    if missing:
        kind = 'no class of the config' if len(missing) == len(classes) else 'class not in the file'
        return [Problem(kind, 'categories', f'{_first(missing)}; the file has {_first(names)}')]
    if ordered != list(classes):
        reason = f'the file has {_first(ordered)}, the config {_first(classes)}: labels get other names'
        return [Problem('order of the classes', 'categories', reason)]
    return []


def _first(names: Sequence[str]) -> str:
    return ', '.join([*names[:8], *(['...'] if len(names) > 8 else [])])


def summary(problems: list[Problem]) -> str:
    """How many there are of each kind, most frequent first."""
    return ', '.join(f'{number} x {kind}' for kind, number in Counter(p.kind for p in problems).most_common())


def is_id(value: object) -> bool:
    """Whether this is an id that pycocotools takes: an integer or a string."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether this is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _is_text(value: object) -> bool:
    """Whether this is a string that can be written; JSON can hold others."""
    return isinstance(value, str) and value == value.encode(errors='replace').decode()


def short(value: object) -> str:
    """The value as Python writes it, in 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def missing_keys(entry: dict, *names: str) -> Iterator[Problem]:
    """A problem for each name that an entry does not have."""
    for name in names:
        if name not in entry:
            yield Problem('missing key', '', name)


class _Categories:
    def __init__(self) -> None:
        self.ids: set[int | str] = set()
        self.names: set[str] = set()

    def __call__(self, entry: dict) -> Iterator[Problem]:
        yield from missing_keys(entry, 'id', 'name')
        number, name = entry.get('id', 0), entry.get('name', '')
        if not is_id(number) or not _is_text(name):
            yield Problem('wrong type', '', f'id {short(number)}, name {short(name)}')
            return
        if number in self.ids or name in self.names:
            yield Problem('duplicate category', '', f'id {short(number)}, name {short(name)}')
        self.ids.add(number)
        self.names.add(name)


class _Images:
    def __init__(self, allow_outside: bool) -> None:
        self.allow_outside = allow_outside
        self.ids: set[int | str] = set()
        self.files: set[str] = set()

    def __call__(self, entry: dict) -> Iterator[Problem]:
        yield from missing_keys(entry, 'id', 'file_name', 'height', 'width')
        number, name = entry.get('id', 0), entry.get('file_name', 'none')
        if not is_id(number):
            yield Problem('wrong type', '', f'id {short(number)}')
        elif 'id' in entry:
            if number in self.ids:
                yield Problem('duplicate image id', '', short(number))
            self.ids.add(number)
        for side in ('height', 'width'):
            length = entry.get(side, 1)
            if not is_finite(length) or length < 1 or length != int(length):
                yield Problem('wrong type', '', f'{side} {short(length)} is no number of pixels')
        if not _is_text(name) or not name or '\0' in name:
            yield Problem('wrong type', '', f'file_name {short(name)}')
            return
        if not self.allow_outside and leads_outside(name):
            yield Problem('outside the data', '', f'file_name {short(name)}')
        if 'file_name' in entry and name in self.files:
            yield Problem('file listed twice', '', short(name), fatal=False)
        self.files.add(name)


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
    def __init__(self, images: list[dict], categories: list[dict]) -> None:
        self.sizes = {image['id']: (image['width'], image['height']) for image in images}
        self.categories = {category['id'] for category in categories}
        self.ids: set[int | str] = set()

    def __call__(self, entry: dict) -> Iterator[Problem]:
        missing = list(missing_keys(entry, 'image_id', 'category_id', 'bbox'))
        if missing:
            yield from missing
            return
        image, category, box = entry['image_id'], entry['category_id'], entry['bbox']
        number = entry.get('id', 0)
        if not is_id(number):
            yield Problem('wrong type', '', f'id {short(number)}')
        elif 'id' in entry:
            if number in self.ids:
                yield Problem('duplicate annotation id', '', short(number), fatal=False)
            self.ids.add(number)
        if not is_id(image) or image not in self.sizes:
            yield Problem('unknown image', '', f'image_id {short(image)}')
            return
        where = f', image {short(image)}'
        if not is_id(category) or category not in self.categories:
            yield Problem('unknown category', where, f'category_id {short(category)}')
        if 'area' in entry and not is_finite(entry['area']):
            yield Problem('wrong type', where, f'area {short(entry["area"])}')
        elif entry.get('area', 1) <= 0:
            yield Problem('no area', where, f'area {entry["area"]:g}; trained on as width x height', fatal=False)
        if not isinstance(box, list) or len(box) != 4 or not all(is_finite(value) for value in box):
            yield Problem('no box', where, f'bbox {short(box)} is not four finite numbers')
            return
        yield from self._box(box, *self.sizes[image], where)
        yield from self._segmentation(entry.get('segmentation'), self.sizes[image], where)

    def _box(self, box: list[float], width: int, height: int, where: str) -> Iterator[Problem]:
        x, y, w, h = box
        if w < 1 or h < 1:
            yield Problem('degenerate box', where, f'{w:g} x {h:g} pixels')
        elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
            yield Problem('box outside its image', where, f'{box} of {width} x {height}')
        elif x < 0 or y < 0 or x + w > width or y + h > height:
            yield Problem('box reaches out of its image', where, f'{box} of {width} x {height}', fatal=False)

    def _segmentation(self, value: object, size: tuple[int, int], where: str) -> Iterator[Problem]:
        if isinstance(value, dict) and not _are_run_lengths(value, size):
            yield Problem('no run lengths', where, short(value), fatal=False)
        elif isinstance(value, list) and not all(map(_is_polygon, value)):
            yield Problem('no polygon', where, short(value), fatal=False)
        elif value is not None and not isinstance(value, dict | list):
            yield Problem('no segmentation', where, short(value), fatal=False)


def _is_polygon(value: object) -> bool:
    return isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0 and all(map(is_finite, value))


def _are_run_lengths(value: object, size: tuple[int, int]) -> bool:
    """Whether these are run lengths of an image of (width, height), as far as can be seen without decoding them."""
    if not isinstance(value, dict) or value.get('size') != [size[1], size[0]]:
        return False
    counts = value.get('counts')
    if isinstance(counts, list):
        return all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == size[0] * size[1]
    return isinstance(counts, str)


def _completed(annotations: list[dict], images: list[dict]) -> list[dict]:
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    completed = []
    for number, entry in enumerate(annotations, 1):
        _, _, w, h = entry['bbox']
        area = entry.get('area', 0)
        segmentation = entry.get('segmentation')
        if not _are_run_lengths(segmentation, sizes[entry['image_id']]):
            segmentation = [p for p in segmentation if _is_polygon(p)] if isinstance(segmentation, list) else []
        completed.append(
            {
                **entry,
                'id': number,
                'area': area if area > 0 else w * h,  # mmdet leaves others out
                'iscrowd': int(bool(entry.get('iscrowd'))),
                'segmentation': segmentation,
            }
        )
    return completed
