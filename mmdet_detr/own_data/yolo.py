"""Reads folders with YOLO labels: with data.yaml, with a list of classes, or with numbers alone."""

import math
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import yaml

from ..datasets.annotations import Document
from ..datasets.problems import short
from ..errors import one_line
from .files import SPLITS, Files, OwnDataError, is_image, is_inside, split_of

WHAT = 'YOLO (data.yaml, or .txt files named like the images)'
LISTS = ('classes.txt', 'obj.names', 'classes.names', 'predefined_classes.txt', 'labels.txt')
FARTHEST = 1.5  # a coordinate beyond is in pixels and not a share of the image
UNUSABLE = -1  # the class of a line that has no box
WANTED = 'YOLO wants a class and shares of the image, such as 0 0.5 0.5 0.2 0.2'


def read_yolo(files: Files, notes: list[str]) -> dict[str, Document] | None:
    """The YOLO labels of a folder as COCO documents, by split; None if there are none.

    ``data.yaml`` tells the split and the classes, or else names of folders and a list such as ``classes.txt``. A line
    is a class and a box, with or without a confidence; or a class and a polygon, of which the box is taken; with
    ``kpt_shape``, the key points behind a box are not read. Boxes are those of the text in double precision, in shares
    of the image: the caller, who knows its size, makes pixels of them (:func:`to_pixels`). An image without labels is
    background.

    Args:
        files: the folder.
        notes: gets a line about what was left out or changed.

    Raises:
        OwnDataError: a class has no name, data.yaml cannot be read, or its labels have no box.
    """
    settings = next((found for path in files.ending('.yaml', '.yml') if (found := _settings(path))), None)
    splits = _listed_splits(settings, files, notes) if settings else {}
    if not splits:
        for image in files.images:
            splits.setdefault(split_of(files.below_root(image.parent)), []).append(image)
    labels = {image: path for images in splits.values() for image in images if (path := _labels_of(image))}
    if not labels:
        return None
    points = _numbers_of_points(settings) if settings else 0
    if reason := _without_boxes(labels.values(), points, files):
        files.unread.append(reason)
        if settings:
            raise files.refusal('(YOLO) has no boxes')
        return None
    names, source = _names(settings, files)
    documents: dict[str, Document] = {}
    numbers = set()
    for split, images in splits.items():
        document: Document = {'images': [], 'annotations': [], 'categories': []}
        for image_id, image in enumerate(images, 1):
            document['images'].append({'id': image_id, 'file_name': str(image)})
            path = labels.get(image)
            for number, box in _read_labels(path, points) if path else ():
                numbers.add(number)
                if names and number not in names and isinstance(box, tuple):
                    raise OwnDataError(f'{path} has the class {number}, and {source} names {len(names)} classes')
                document['annotations'].append(
                    {'id': len(document['annotations']) + 1, 'image_id': image_id, 'category_id': number, 'bbox': box}
                )
        documents[split] = document
    if blank := [number for number, name in names.items() if not name.strip()]:
        raise OwnDataError(f'{source} has no name for the class {blank[0]}')
    if twice := [name for name, times in Counter(names.values()).items() if times > 1]:
        notes.append(f'{source} names several classes {twice[0]}: they become one')
    if not names:
        names = {number: f'class_{number}' for number in range(max(numbers, default=0) + 1)}
        notes.append(f'no data.yaml or classes.txt names the classes: they are called {", ".join(names.values())}')
    for document in documents.values():
        document['categories'] = [{'id': number, 'name': name} for number, name in sorted(names.items())]
    if shared := [path for path, times in Counter(labels.values()).items() if times > 1]:
        several = ' and '.join(image.name for image, path in labels.items() if path == shared[0])
        notes.append(f'labels that several images share: {len(shared)}, first {shared[0]} of {several}; all are used')
    if without := sum(image not in labels for images in splits.values() for image in images):
        notes.append(f'images without labels, which count as background: {without}')
    return documents


def to_pixels(box: Any, width: int, height: int) -> Any:
    """The x, y, width and height in pixels of (x1, y1, x2, y2) in shares of the image."""
    if not isinstance(box, tuple):
        return box
    x1, y1, x2, y2 = box
    return [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]


def _settings(path: Path) -> dict[str, Any] | None:
    """The content of a data.yaml, with its path; a class may be called yes or 1, so every value is the text."""
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), yaml.BaseLoader)
    except (yaml.YAMLError, OSError, ValueError) as error:
        if path.stem == 'data':
            raise OwnDataError(f'{path} is no YAML: {one_line(error)}') from error
        return None
    known = isinstance(content, dict) and isinstance(content.get('names'), list | dict)
    return {**content, 'file': path} if known else None


def _numbers_of_points(settings: dict[str, Any]) -> int:
    """How many numbers of key points follow a box."""
    shape = settings.get('kpt_shape')
    if shape in (None, '', '~', 'null'):
        return 0
    if not isinstance(shape, list) or not all(str(number).isdecimal() for number in shape):
        raise OwnDataError(f'{settings["file"]}: kpt_shape has to be two numbers, got {shape}')
    return math.prod(map(int, shape))


def _listed_splits(settings: dict[str, Any], files: Files, notes: list[str]) -> dict[str, list[Path]]:
    """The images that a data.yaml lists; nothing if there are none to train on, or validation has some of the same."""
    named = {split: settings.get(split) for split in SPLITS}
    named['val'] = named['val'] or settings.get('valid')
    found = {split: _listed(settings, value, files) for split, value in named.items()}
    if not found['train'] or set(found['train']) & set(found['val']):
        return {}
    for split in SPLITS:
        if named[split] and not found[split]:
            notes.append(f'{split} is not used: {settings["file"]} names {named[split]}, where no images are')
    return {split: images for split, images in found.items() if images}


def _listed(settings: dict[str, Any], value: Any, files: Files) -> list[Path]:
    """Images of a folder, of a list in a text file, or of several of both."""
    if isinstance(value, list):
        return [path for one in value for path in _listed(settings, one, files)]
    if not isinstance(value, str) or not value:
        return []
    folder = settings['file'].parent
    base = folder / str(settings.get('path') or '')
    for path in _places(value, sorted((base, folder), key=lambda place: not is_inside(place, folder))):
        if path.is_dir():
            return Files(path).images
        if path.is_file():
            lines = [line.strip() for line in _lines(path) if line.strip()]
            bases = (path.parent, files.root, base)
            paths = [next((place for place in _places(line, bases) if place.is_file()), None) for line in lines]
            return [path for path in paths if path and is_image(path)]
    return []


def _places(value: str, bases: Iterable[Path]) -> list[Path]:
    """Where a path may lead, first without its ``..``: Roboflow writes ../train/images for a folder beside the file."""
    inside = PurePath(*[part for part in PurePath(value).parts if part != '..'])
    return [Path(os.path.normpath(base / path)) for path in dict.fromkeys((inside, PurePath(value))) for base in bases]


def _labels_of(image: Path) -> Path | None:
    """The labels of an image: in ``labels`` in the place of the last ``images`` of its path, or beside it."""
    parts = list(image.with_suffix('.txt').parts)
    places = [image.with_suffix('.txt'), image.parent / 'labels' / f'{image.stem}.txt']
    for number in range(len(parts) - 2, -1, -1):
        if parts[number].lower() == 'images':
            places.insert(0, Path(*parts[:number], 'labels', *parts[number + 1 :]))
            break
    return next((path for path in places if path.is_file() and path.name not in LISTS), None)


def _without_boxes(labels: Iterable[Path], points: int, files: Files) -> str:
    """Why none of the labels has a box: what is wrong with the first line; an empty string if one has."""
    first = ''
    for path in labels:
        for number, line in enumerate(_lines(path), 1):
            if not (words := line.split()):
                continue
            if isinstance(_parse(words, points)[1], tuple):
                return ''
            first = first or f'{files.below_root(path)}, line {number}: {short(line.strip())}: {_mistake(words)}'
    return first or 'The .txt files of the images are empty'


def _mistake(words: list[str]) -> str:
    """What is wrong with a line that has no box."""
    if any(',' in word for word in words):
        return f'there are commas, and {WANTED}'
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return WANTED
    pixels = len(numbers) > 4 and any(abs(number) > FARTHEST for number in numbers[1:5])
    return f'these look like pixels, and {WANTED}' if pixels else WANTED


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding='utf-8-sig', errors='replace').splitlines()


def _names(settings: dict[str, Any] | None, files: Files) -> tuple[dict[int, str], Path | None]:
    """The names of the classes by their numbers, and the file that tells them."""
    if settings:
        names = settings['names']
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        try:
            return {int(number): str(name) for number, name in pairs}, settings['file']
        except ValueError as error:
            raise OwnDataError(f'{settings["file"]}: names has to be a list, or numbers with names: {error}') from error
    lists = [path for path in files.all if path.name in LISTS or path.suffix == '.names']
    if not lists:
        return {}, None
    lines = lists[0].read_text(encoding='utf-8-sig', errors='replace').strip().splitlines()
    return {number: line.strip() for number, line in enumerate(lines)}, lists[0]


def _read_labels(path: Path, points: int) -> list[tuple[int, Any]]:
    return [_parse(words, points) for line in _lines(path) if (words := line.split())]


def _parse(line: list[str], points: int) -> tuple[int, Any]:
    """Class and box (x1, y1, x2, y2) in shares of the image; the line as it is instead of a box if it has none."""
    unusable = (UNUSABLE, ' '.join(line))
    try:
        number, *values = map(float, line)
    except ValueError:
        return unusable
    box_only = len(values) in (4, 5, 4 + points)
    corners = values[:4] if box_only else values[: len(values) // 2 * 2]
    if not number.is_integer() or len(values) < 4 or not all(abs(value) <= FARTHEST for value in corners):
        return unusable
    if box_only:
        x, y, w, h = corners
        return int(number), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return int(number), (min(corners[::2]), min(corners[1::2]), max(corners[::2]), max(corners[1::2]))
