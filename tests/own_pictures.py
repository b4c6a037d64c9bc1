"""Tiny folders of one's own pictures, one for each form that annotations come in."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ('cat', 'dog')
# Images by their name: width, height, and objects as (label, x, y, width, height) in pixels.
PICTURES: dict[str, tuple[int, int, list[tuple[int, float, float, float, float]]]] = {
    'a': (40, 20, [(0, 4, 5, 10, 8)]),
    'b': (30, 30, [(1, 3, 3, 12.5, 6.25), (0, 15, 12, 9, 9)]),
    'c': (64, 48, []),
    'd': (50, 60, [(1, 0, 0, 50, 60)]),
    'e': (33, 21, [(0, 1, 2, 30, 18)]),
}


def write_image(path: Path, width: int, height: int, colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (width, height), (colour % 256, 90, 160)).save(path)


def write_images(folder: Path, names: str = 'abcde', ending: str = '.jpg') -> None:
    for name in names:
        width, height, _ = PICTURES[name]
        write_image(folder / f'{name}{ending}', width, height, ord(name))


def coco(names: str = 'abcde', first: int = 1, prefix: str = '', ending: str = '.jpg') -> dict[str, Any]:
    """A COCO document whose ids of categories begin with ``first``."""
    images, annotations = [], []
    for image_id, name in enumerate(names, 7):
        width, height, objects = PICTURES[name]
        images.append({'id': image_id, 'file_name': f'{prefix}{name}{ending}', 'width': width, 'height': height})
        for label, *box in objects:
            annotations.append(
                {'id': len(annotations), 'image_id': image_id, 'category_id': label + first, 'bbox': box, 'iscrowd': 0}
            )
    categories = [{'id': label + first, 'name': name} for label, name in enumerate(NAMES)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def write_coco(path: Path, *arguments: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco(*arguments, **options)))


def yolo_line(label: int, box: tuple[float, ...], width: int, height: int) -> str:
    x, y, w, h = box
    return f'{label} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}'


def write_yolo(folder: Path, names: str = 'abcde') -> None:
    """A label file for each image, but for those without objects."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        width, height, objects = PICTURES[name]
        if objects:
            lines = [yolo_line(label, tuple(box), width, height) for label, *box in objects]
            (folder / f'{name}.txt').write_text('\n'.join(lines) + '\n')


def voc(name: str, ending: str = '.jpg', difficult: bool = False) -> str:
    """A VOC file, whose corners count from 1 and include the last pixel."""
    width, height, objects = PICTURES[name]
    parts = [
        f'<object><name>{NAMES[label]}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{x + 1}</xmin>'
        f'<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>'
        for label, x, y, w, h in objects
    ]
    size = f'<size><width>{width}</width><height>{height}</height><depth>3</depth></size>'
    return f'<annotation><filename>{name}{ending}</filename>{size}{"".join(parts)}</annotation>'


def write_voc(folder: Path, names: str = 'abcde', **options: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f'{name}.xml').write_text(voc(name, **options))
