"""Reads folders with COCO files: COCO itself, and the exports of Roboflow, CVAT and Label Studio."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..datasets.annotations import LISTS, Document
from ..errors import one_line
from .files import Files, OwnDataError, nearest, split_of

WHAT = 'COCO (a .json file with images, annotations and categories)'


def read_coco(files: Files, notes: list[str]) -> dict[str, Document] | None:
    """The COCO files of a folder, by the split that they are for; None if there is none.

    The name of a file or of its folders tells the split (``train``, ``val``, ``valid``, ``test``); an empty string
    stands for a file whose names do not tell. Each image gets the path of its file as ``file_name``, wherever below the
    folder that is.

    Args:
        files: the folder.
        notes: gets a line about files that cannot be read.

    Raises:
        OwnDataError: several files could be that of one split, one has no categories, or one that is named as COCO's
            cannot be read.
    """
    found: dict[str, dict[Path, Document]] = defaultdict(dict)
    unread = []
    for path in files.ending('.json'):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            if path.name.endswith('.coco.json') or path.stem.startswith('instances'):
                raise OwnDataError(f'{path} is no JSON: {one_line(error)}') from error
            unread.append(f'{files.below_root(path)} ({one_line(error)})')
            continue
        if (document := _document(path, content)) is not None:
            found[split_of(files.below_root(path).with_suffix(''))][path] = document
    if unread:
        files.unread.append(f'JSON files that cannot be read: {len(unread)}, {", ".join(unread[:4])}')
        notes.append(files.unread[-1])
    if 'train' in found and '' in found:
        _refuse('train', {**found['train'], **found['']}, files)
    chosen = {split: _one_of(split, several, files) for split, several in found.items()}
    return {split: _with_paths(path, document, split, files) for split, (path, document) in chosen.items()} or None


def _document(path: Path, document: Any) -> Document | None:
    """The content of a file if it has boxes in COCO's format."""
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in LISTS[:2]):
        return None
    annotations = [entry for entry in document['annotations'] if isinstance(entry, dict)]
    if annotations and not any('bbox' in entry for entry in annotations):
        return None  # captions, or a panoptic file
    if not document.get('categories') or not isinstance(document['categories'], list):
        raise OwnDataError(f'{path} names no classes: it has no list of categories')
    return document


def _one_of(split: str, several: dict[Path, Document], files: Files) -> tuple[Path, Document]:
    if len(several) > 1:  # COCO's own folder has keypoints of the same images, too
        several = {path: doc for path, doc in several.items() if path.stem.startswith('instances')} or several
    if len(several) > 1:
        _refuse(split, several, files)
    return next(iter(several.items()))


def _refuse(split: str, several: dict[Path, Document], files: Files) -> None:
    names = ', '.join(str(files.below_root(path)) for path in list(several)[:4])
    raise OwnDataError(
        f'{files.root} has several files that could be for {split or "train"}: {names}. Keep one, or name them after '
        'what they are for: train.json, val.json, test.json'
    )


def _with_paths(path: Path, document: Document, split: str, files: Files) -> Document:
    """The document with paths of images as their file names; of those that are not found, the name as it was."""
    images: list[Any] = []
    for image in document['images']:
        if isinstance(image, dict) and isinstance(image.get('file_name'), str):
            found = _find(image['file_name'].replace('\\', '/'), path.parent, split, files)
            image = {**image, 'file_name': image['file_name'] if found is None else str(found)}
        images.append(image)
    return {'images': images, 'annotations': document['annotations'], 'categories': document['categories']}


def _find(name: str, near: Path, split: str, files: Files) -> Path | None:
    if '\0' in name or not name:
        return None
    for folder in (near, files.root):
        if (folder / name).is_file() and '..' not in name:
            return folder / name
    return nearest(files.by_name.get(name.rsplit('/', 1)[-1], []), name, near, split, files)
