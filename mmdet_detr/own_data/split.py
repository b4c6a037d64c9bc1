"""Splits images for validation off, by a seed."""

import hashlib
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

from ..datasets.annotations import Document
from .files import OwnDataError

SHARE = 0.2
COPY = re.compile(r'\.rf\.\w+$')  # Roboflow's mark of an augmented copy


def split_off(document: Document, root: Path, seed: int, share: float = SHARE) -> tuple[Document, Document]:
    """Split a COCO document with absolute file names in two.

    Equal files and Roboflow's augmented copies of an image stay together: the validation would see what was trained on.
    Images with and without boxes are drawn apart. The result depends on the names below the root and on the seed alone.

    Args:
        document: to be split.
        root: the folder that file names are taken below.
        seed: of the draw.
        share: of the groups of images that are drawn.

    Returns:
        The rest, and what was drawn.

    Raises:
        OwnDataError: there are not two different images with boxes.
    """
    groups = _groups(document, root)
    with_boxes = {entry['image_id'] for entry in document['annotations']}
    full = [ids for ids in groups if with_boxes & set(ids)]
    if len(full) < 2:
        raise OwnDataError(f'{root} has a single image with boxes: nothing is left to validate with')
    generator = random.Random(seed)
    drawn: set[int | str] = set()
    for part in (full, [ids for ids in groups if not with_boxes & set(ids)]):
        number = max(round(share * len(part)), 1) if part is full else round(share * len(part))
        drawn.update(image_id for ids in generator.sample(part, number) for image_id in ids)
    return _part(document, drawn, inside=False), _part(document, drawn, inside=True)


def _groups(document: Document, root: Path) -> list[list[int | str]]:
    """Ids of images that belong together, in the order of their names."""
    files = {image['id']: Path(image['file_name']) for image in document['images']}
    sizes = Counter(path.stat().st_size for path in files.values())
    names = {i: (p.relative_to(root) if p.is_relative_to(root) else p).as_posix() for i, p in files.items()}
    groups: dict[str, list[int | str]] = defaultdict(list)
    first: dict[str, str] = {}
    for image_id in sorted(files, key=lambda i: names[i]):
        path = files[image_id]
        name = str(Path(names[image_id]).with_name(COPY.sub('', path.stem)))
        if sizes[path.stat().st_size] > 1:
            name = first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), name)
        groups[name].append(image_id)
    return list(groups.values())


def _part(document: Document, ids: set[int | str], inside: bool) -> Document:
    return {
        **document,
        'images': [image for image in document['images'] if (image['id'] in ids) == inside],
        'annotations': [entry for entry in document['annotations'] if (entry['image_id'] in ids) == inside],
    }
