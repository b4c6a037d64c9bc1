"""Reads folders with Pascal VOC files: beside the images, in a folder of their own, or in the layout of a VOCdevkit."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from ..datasets.annotations import Document
from ..errors import one_line
from .files import Files, leave_out, nearest, split_of

WHAT = 'Pascal VOC (.xml files)'
UNLISTED = 'unlisted'  # the split of a file in none of the lists


def read_voc(files: Files, notes: list[str]) -> dict[str, Document] | None:
    """The VOC files of a folder as COCO documents, by split; None if there is none.

    Lists in ``ImageSets/Main`` tell the split, or else names of folders. Corners count pixels from 1 and include the
    last one, so x1 and y1 become smaller by 1 (as in ``supervision``). Boxes are cut at the border of their image.
    ``difficult`` objects become crowds: neither learnt nor missed in the evaluation, as VOC does it.

    Args:
        files: the folder.
        notes: gets a line about what was left out or changed.

    Raises:
        OwnDataError: more than a tenth of the files is broken.
    """
    parsed, broken, foreign = _parse(files)
    if not parsed:
        if broken:
            files.unread.append(f'XML files that cannot be read: {len(broken)}, first {next(iter(broken.values()))}')
        return None
    leave_out('', '.xml files', len(parsed) + len(broken), list(broken.values()), notes)
    if foreign:
        notes.append(f'.xml files that are no annotations, left out: {len(foreign)}, first {foreign[0]}')
    listed = _listed_splits(files)
    names = sorted({name for root in parsed.values() for name in map(_name, root.findall('object')) if name})
    ids = {name: number for number, name in enumerate(names, 1)}
    documents: dict[str, Document] = {}
    difficult = 0
    labelled = set()
    for path, root in parsed.items():
        split = split_of(files.below_root(path.parent))
        for folder, splits in listed.items():
            if path.is_relative_to(folder):
                split = splits.get(path.stem, UNLISTED)
        image = _image_of(path, root, split, files)
        labelled.add(str(image))
        document = documents.setdefault(split, _empty(names))
        number = len(document['images']) + 1
        width, height = (_number(root.findtext(f'size/{side}')) or 0 for side in ('width', 'height'))
        document['images'].append({'id': number, 'file_name': str(image), 'width': width, 'height': height})
        for entry in root.findall('object'):
            hard = (entry.findtext('difficult') or '0').strip() == '1'
            difficult += hard
            document['annotations'].append(
                {
                    'id': len(document['annotations']) + 1,
                    'image_id': number,
                    'category_id': ids.get(_name(entry), 0),
                    'bbox': _box(entry),
                    'iscrowd': int(hard),
                }
            )
    if unlisted := documents.pop(UNLISTED, None):
        if not documents:
            return {'': unlisted}
        notes.append(f'.xml files in no list of ImageSets/Main, left out: {len(unlisted["images"])}')
    lost = {path.stem for path in broken}
    without = [path for path in files.images if str(path) not in labelled and path.stem not in lost]
    if without:
        notes.append(f'images without .xml file, left out: {len(without)}, first {files.below_root(without[0])}')
    if difficult:
        notes.append(f'objects marked as difficult, neither learnt nor counted as missed: {difficult}')
    return documents


def _parse(files: Files) -> tuple[dict[Path, ET.Element], dict[Path, str], list[Path]]:
    """The annotations; what is wrong with files that should be some; and files that have nothing to do with images."""
    parsed, broken, foreign = {}, {}, []
    for path in files.ending('.xml'):
        try:
            root = ET.parse(path).getroot()
        except (ET.ParseError, OSError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
            broken[path] = f'{files.below_root(path)}: {one_line(error)}'
            continue
        if root.tag == 'annotation':
            parsed[path] = root
        elif path.stem in files.by_stem:
            broken[path] = f'{files.below_root(path)}: <{root.tag}> instead of <annotation>'
        else:
            foreign.append(path)
    return parsed, broken, foreign


def _empty(names: list[str]) -> Document:
    categories = [{'id': number, 'name': name} for number, name in enumerate(names, 1)]
    return {'images': [], 'annotations': [], 'categories': categories}


def _listed_splits(files: Files) -> dict[Path, dict[str, str]]:
    """Splits by the name of an image, for each folder with an ``ImageSets/Main``."""
    found: dict[Path, dict[str, str]] = {}
    for name, split in (('trainval', ''), ('train', 'train'), ('val', 'val'), ('test', 'test')):
        for path in files.all:
            if path.name == f'{name}.txt' and path.parts[-3:-1] == ('ImageSets', 'Main'):
                stems = [
                    line.split()[0]
                    for line in path.read_text(encoding='utf-8-sig', errors='replace').splitlines()
                    if line.strip()
                ]
                found.setdefault(path.parents[2], {}).update(dict.fromkeys(stems, split))
    return found


def _image_of(path: Path, root: ET.Element, split: str, files: Files) -> Path:
    """The image of a file: of the same name but for the ending, or else the one that the file names."""
    name = (root.findtext('filename') or '').strip().replace('\\', '/').rsplit('/', 1)[-1]
    for candidates in (files.by_stem.get(path.stem), files.by_name.get(name)):
        if candidates and (found := nearest(candidates, name, path.parent, split, files)):
            return found
    return path.with_name(name or path.stem)


def _name(entry: ET.Element) -> str:
    return (entry.findtext('name') or '').strip()


def _number(text: str | None) -> int | None:
    try:
        return int(float(text or ''))
    except (ValueError, OverflowError):
        return None


def _box(entry: ET.Element) -> Any:
    """x, y, width and height in pixels from 0; the texts as they are where they are no numbers."""
    texts = [entry.findtext(f'bndbox/{corner}') for corner in ('xmin', 'ymin', 'xmax', 'ymax')]
    try:
        x1, y1, x2, y2 = (float(text or '') for text in texts)
    except ValueError:
        return texts
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
