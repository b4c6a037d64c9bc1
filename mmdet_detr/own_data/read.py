"""Recognises a folder of pictures, and makes one sound COCO document of each of its splits."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ..datasets.annotations import Document, check_annotations, first_names, is_id
from ..datasets.images import BrokenImageError, inspect_image
from ..datasets.problems import Kind, Problem
from . import coco, voc, yolo
from .files import SPLITS, Files, OwnDataError, is_inside, leave_out
from .split import split_off


@dataclass
class OwnData:
    """What is in a folder of pictures.

    Attributes:
        root: the folder.
        kind: 'COCO', 'YOLO' or 'Pascal VOC'.
        classes: names of the classes in the order of their labels.
        documents: a COCO document for each of 'train', 'val' and perhaps 'test'. ``file_name`` is the absolute path of
            an image; boxes are x, y, width and height in pixels; ids count from 1.
        notes: lines for the user about what was left out, drawn or assumed.
    """

    root: Path
    kind: str
    classes: tuple[str, ...]
    documents: dict[str, Document]
    notes: list[str] = field(default_factory=list)

    @property
    def most_objects(self) -> int:
        """The largest number of objects in an image."""
        counts = (Counter(entry['image_id'] for entry in d['annotations']) for d in self.documents.values())
        return max((max(count.values(), default=0) for count in counts), default=0)


def read_folder(folder: str | Path, seed: int = 0) -> OwnData:
    """Read a folder of pictures with boxes in COCO's, YOLO's or Pascal VOC's form, and write nothing.

    Without a validation split, a fifth of the training images becomes one, drawn by the seed.

    Args:
        folder: the folder.
        seed: of the split.

    Raises:
        OwnDataError: there is no such folder, nothing in it is recognised, it has no images, classes or boxes, more
            than a tenth of them cannot be used, or it does not say what to train on.
    """
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise OwnDataError(f'{folder} is a file, not a folder' if root.exists() else f'no such folder: {folder}')
    if '..' in root.parts:
        root = root.resolve()  # paths below the root and beside it are compared as text
    files = Files(root)
    notes: list[str] = []
    kind, found = _recognise(files, notes)
    for split in [split for split, document in found.items() if not document['images']]:
        del found[split]
        notes.append(f'{split or "the file of no split"} is not used: it lists no images')
    documents = {split: _sound(split, document, kind, notes) for split, document in found.items()}
    if not any(document['annotations'] for document in documents.values()):
        number = sum(len(document['images']) for document in documents.values())
        raise files.refusal(f'({kind}) has {number} images and no boxes')
    classes = _classes(documents, notes)
    documents = _settle(documents, files, seed, notes)
    paths = [Path(image['file_name']) for document in documents.values() for image in document['images']]
    if outside := [path for path in paths if not is_inside(path, root)]:
        notes.append(f'images outside {root}: {len(outside)}, first {outside[0]}')
    return OwnData(root, kind, classes, {s: _numbered(documents[s], classes) for s in documents}, notes)


def _recognise(files: Files, notes: list[str]) -> tuple[str, dict[str, Document]]:
    """The kind of a folder and its documents by split, as they are in the files."""
    readers: tuple[tuple[str, Callable[[], dict[str, Document] | None]], ...] = (
        ('COCO', lambda: coco.read_coco(files, notes)),
        ('YOLO', lambda: yolo.read_yolo(files, notes)),
        ('Pascal VOC', lambda: voc.read_voc(files, notes)),
    )
    for kind, reader in readers:
        found = reader()
        if found and (kind == 'COCO' or files.images):
            return kind, found
    if not files.images:
        raise OwnDataError(f'{files.root} has no images: looked for files ending in {_endings()}')
    counts = Counter(path.suffix.lower() or 'no ending' for path in files.all)
    held = ', '.join(f'{number} {ending}' for ending, number in counts.most_common(4))
    raise files.refusal(
        f'has no annotations that are recognised: looked for {coco.WHAT}, {yolo.WHAT} and {voc.WHAT}, '
        f'and found files of {held}'
    )


def _endings() -> str:
    return '.jpg, .png, .bmp, .tif, .webp and the like'


def _sound(split: str, document: Document, kind: str, notes: list[str]) -> Document:
    """The document without what cannot be used, with the size of each image and boxes in pixels.

    Raises:
        OwnDataError: more than a tenth of it cannot be used.
    """
    where = f'{split or "all"}: '
    images, broken = _inspect(document['images'], split)
    leave_out(where, 'images', len(document['images']), broken, notes)
    sizes = {image['id']: (image['width'], image['height']) for image in images if is_id(image.get('id'))}
    known = {image['id'] for image in document['images'] if isinstance(image, dict) and is_id(image.get('id'))}
    annotations = []
    for entry in document['annotations']:
        if isinstance(entry, dict) and is_id(image_id := entry.get('image_id')):
            if image_id in known and image_id not in sizes:
                continue  # its image is named above
            if image_id in sizes and kind != 'COCO':
                entry = {**entry, 'bbox': _cut(yolo.to_pixels(entry['bbox'], *sizes[image_id]), *sizes[image_id])}
        annotations.append(entry)
    given = {'images': images, 'annotations': annotations, 'categories': document['categories']}
    clean, problems = check_annotations(given, allow_outside=True)
    fatal = [problem for problem in problems if problem.fatal and problem.place != 'categories']
    if kind == 'COCO':
        _tell_joined(document['categories'], clean['categories'], problems, notes)
    names = {image['id']: image['file_name'] for image in images if is_id(image.get('id'))}
    lost = {(p.place, p.index): f'{p.kind} in {names.get(p.image, p.place)}: {p.reason}' for p in fatal}
    leave_out(where, 'annotations', len(annotations), list(lost.values()), notes)
    return clean


def _tell_joined(given: list[Any], kept: list[dict], problems: list[Problem], notes: list[str]) -> None:
    """Notes, once for all splits, about categories that became one with another."""
    names = {category['name'] for category in kept}
    for problem in problems:
        if problem.kind is Kind.DUPLICATE_CATEGORY and problem.index is not None:
            name = given[problem.index]['name']
            note = f'{name}: a category with the id of another one, which gets its boxes'
            if name in names:
                note = f'{name}: several categories have this name, such as a class and one above it: they become one'
            if note not in notes:
                notes.append(note)


def _inspect(images: list[Any], split: str) -> tuple[list[dict], list[str]]:
    """The images that can be read, with their sizes, and what is wrong with the others."""

    def look(image: Any) -> dict | str:
        if not isinstance(image, dict) or not isinstance(image.get('file_name'), str):
            return f'{image!r:.60} has no file_name'
        try:
            size = (image.get('width') or 0, image.get('height') or 0)
            header = inspect_image(image['file_name'], size=size if all(size) else None)
        except (BrokenImageError, ValueError) as error:
            return f'{image["file_name"]}: {error}'
        return {**image, **dict(zip(('width', 'height'), header.size(), strict=True))}

    console, title = Console(stderr=True), f'reading {split or "images"}'
    with ThreadPoolExecutor() as pool:
        looked = list(
            track(
                pool.map(look, images),
                title,
                len(images),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )
    return [one for one in looked if isinstance(one, dict)], [one for one in looked if isinstance(one, str)]


def _cut(box: Any, width: int, height: int) -> Any:
    """A box in pixels without what is outside the image; one that is wholly outside stays there."""
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        return box
    x, y, w, h = box
    x1, y1, x2, y2 = max(0, x), max(0, y), min(width, x + w), min(height, y + h)
    inside = x1 < x2 and y1 < y2
    cut = (x1, y1, x2, y2) != (x, y, x + w, y + h)
    return [x1, y1, x2 - x1, y2 - y1] if inside and cut else box


def _classes(documents: dict[str, Document], notes: list[str]) -> tuple[str, ...]:
    """The names of the classes, without roots: Roboflow lists a category above its classes, which has no boxes."""
    categories = [c for split in sorted(documents, key=_order) for c in documents[split]['categories']]
    used = {
        names[entry['category_id']]
        for document in documents.values()
        for names in [{c['id']: c['name'] for c in document['categories']}]
        for entry in document['annotations']
    }
    above = [c.get('supercategory') for c in categories if c.get('supercategory') != c['name']]  # COCO's person is one
    names = dict.fromkeys(category['name'] for category in categories)
    roots = [name for name in names if name not in used and name in above]
    if roots:
        notes.append(f'{first_names(roots)}: a category above the classes, without boxes; it is left out')
    return tuple(name for name in names if name not in roots)


def _order(split: str) -> int:
    return ('train', '', 'val', 'test').index(split)


def _settle(documents: dict[str, Document], files: Files, seed: int, notes: list[str]) -> dict[str, Document]:
    """A document for training, one for validation, and for the test if there is one with boxes."""
    rest = documents.pop('', None)
    if rest and 'train' in documents:
        notes.append(f'images in no folder of a split, left out: {len(rest["images"])}')
    elif rest:
        documents['train'] = rest
    if 'train' not in documents:
        raise files.refusal(f'has nothing to train on: it only has images for {" and ".join(documents)}')
    for split in ('val', 'test'):
        if split in documents and not documents[split]['annotations']:
            notes.append(f'{split} is not used: none of its {len(documents.pop(split)["images"])} images has a box')
    if not documents['train']['annotations']:
        with_boxes = ' and '.join(split for split in documents if split != 'train')
        raise files.refusal(f'has no boxes to train on: they are all in {with_boxes}')
    if 'val' not in documents:
        documents['train'], documents['val'] = split_off(documents['train'], files.root, seed)
        number = len(documents['val']['images'])
        notes.append(f'no validation split: it gets {number} of the images, drawn by seed {seed}')
    return {split: documents[split] for split in SPLITS if split in documents}


def _numbered(document: Document, classes: tuple[str, ...]) -> Document:
    """The document with ids from 1, and with the classes in their order."""
    names = {category['id']: category['name'] for category in document['categories']}
    images = {image['id']: number for number, image in enumerate(document['images'], 1)}
    labels = {name: number for number, name in enumerate(classes, 1)}
    return {
        'images': [{**image, 'id': images[image['id']]} for image in document['images']],
        'annotations': [
            {**e, 'id': n, 'image_id': images[e['image_id']], 'category_id': labels[names[e['category_id']]]}
            for n, e in enumerate(document['annotations'], 1)
        ],
        'categories': [{'id': number, 'name': name} for name, number in labels.items()],
    }
