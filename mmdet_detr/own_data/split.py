"""Splits images for validation off, by a seed."""

import hashlib
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..datasets.annotations import Document
from .files import OwnDataError

SHARE = 0.2
COPY = re.compile(r'\.rf\.\w+$')  # Roboflow's mark of an augmented copy


def split_off(document: Document, root: Path, seed: int, share: float = SHARE) -> tuple[Document, Document]:
    """Split a COCO document with absolute file names in two.

    Equal files, files of one folder that differ in their ending alone, and Roboflow's augmented copies of an image stay
    together: the validation would see what was trained on.
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
    ids = sorted(files, key=lambda i: names[i])
    nodes: dict[object, int] = {number: number for number in range(len(ids))}
    edges = []  # from an image to its name without the ending, and to its content
    for number, image_id in enumerate(ids):
        path = files[image_id]
        marks = [Path(names[image_id]).with_name(COPY.sub('', path.stem)).as_posix()]
        if sizes[path.stat().st_size] > 1:
            marks.append(f'sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}')
        edges += [(number, nodes.setdefault(mark, len(nodes))) for mark in marks]
    graph = coo_matrix((np.ones(len(edges)), np.array(edges).T), shape=(len(nodes), len(nodes)))
    groups: dict[int, list[int | str]] = defaultdict(list)
    for image_id, group in zip(ids, connected_components(graph, directed=False)[1], strict=False):
        groups[group].append(image_id)
    return list(groups.values())


def _part(document: Document, ids: set[int | str], inside: bool) -> Document:
    return {
        **document,
        'images': [image for image in document['images'] if (image['id'] in ids) == inside],
        'annotations': [entry for entry in document['annotations'] if (entry['image_id'] in ids) == inside],
    }
