"""Small panoptic data sets for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (8, 6)  # width, height
PERSON, CAR, SKY, ROAD = 70000, 300, 5, 16777214  # colours; each of the three bytes is used
# Four pixels of a person, two cars, sky, road, and one pixel of VOID at the lower right
SEGMENTS = np.array(
    [
        [SKY, SKY, SKY, SKY, SKY, SKY, SKY, SKY],
        [SKY, SKY, PERSON, SKY, SKY, SKY, SKY, SKY],
        [SKY, SKY, PERSON, PERSON, SKY, CAR, CAR, SKY],
        [SKY, SKY, PERSON, SKY, SKY, CAR, CAR, SKY],
        [ROAD, ROAD, ROAD, ROAD, ROAD, ROAD, ROAD, ROAD],
        [ROAD, ROAD, ROAD, ROAD, ROAD, ROAD, ROAD, 0],
    ]
)
CATEGORIES = [
    {'id': 20, 'name': 'road', 'isthing': 0},
    {'id': 3, 'name': 'car', 'isthing': 1},
    {'id': 1, 'name': 'person', 'isthing': 1},
    {'id': 11, 'name': 'sky', 'isthing': 0},
]
CLASSES = ('person', 'car', 'sky', 'road')


def colours(segments: np.ndarray) -> Image.Image:
    """R + 256 G + 65536 B."""
    return Image.fromarray(np.stack([segments >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8))


def segments_info() -> list[dict]:
    """Boxes are those of the pixels: x, y, width, height."""
    return [
        {'id': PERSON, 'category_id': 1, 'bbox': [2, 1, 2, 3], 'area': 4, 'iscrowd': 0},
        {'id': CAR, 'category_id': 3, 'bbox': [5, 2, 2, 2], 'area': 4, 'iscrowd': 1},
        {'id': SKY, 'category_id': 11, 'bbox': [0, 0, 8, 4], 'area': 24, 'iscrowd': 0},
        {'id': ROAD, 'category_id': 20, 'bbox': [0, 4, 8, 2], 'area': 15, 'iscrowd': 0},
    ]


def document(names: tuple[str, ...] = ('a.jpg', 'b.jpg')) -> dict:
    """Annotations are in another order than the images, as in the wild; PNGs have names of their own."""
    images = [{'id': 10 + i, 'file_name': name, 'width': SIZE[0], 'height': SIZE[1]} for i, name in enumerate(names)]
    annotations = [
        {'image_id': image['id'], 'file_name': f'map {image["id"]}.png', 'segments_info': segments_info()}
        for image in reversed(images)
    ]
    return {'images': images, 'annotations': annotations, 'categories': [dict(c) for c in CATEGORIES]}


def write(root: Path, given: dict) -> None:
    """Write a document as ``panoptic.json``, random images to ``images`` and the segments' PNGs to ``maps``."""
    for image in given['images']:
        path = root / 'images' / image['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(image['id']).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (root / 'maps').mkdir(exist_ok=True)
    for entry in given['annotations']:
        colours(SEGMENTS).save(root / 'maps' / entry['file_name'])
    write_json(root, given)


def write_json(root: Path, given: dict) -> None:
    (root / 'panoptic.json').write_text(json.dumps(given))
