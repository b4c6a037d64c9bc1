"""Generates photographs of shapes with ground truth in COCO's formats, for demonstrations and tests.

An image has a background of two or three textured regions and a few circles, squares and triangles, each turned,
coloured, textured and anti-aliased, under sensor noise and JPEG compression. Every image depends on the seed, its
split and its number only.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

THINGS = ('circle', 'square', 'triangle')
STUFF = ('sky', 'grass', 'sand', 'water')
STUFF_COLOURS = ((125, 165, 215), (85, 135, 65), (200, 175, 125), (60, 95, 135))
SUPERSAMPLING = 4  # shapes are drawn at this multiple of the resolution, then averaged
CIRCLE_CORNERS = 48
MAX_IOU = 0.2  # highest overlap of two objects in an image
SPLITS = ('train', 'val')


@dataclass(frozen=True)
class ShapesOptions:
    """Options of the images. An image gets fewer objects than drawn if they do not fit without much overlap.

    Raises:
        ValueError: the image is smaller than 16 pixels, min_objects exceeds max_objects, or a number is negative.
    """

    image_size: int = 64  # pixels of a side
    min_objects: int = 1
    max_objects: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise ValueError(f'image_size must be at least 16 pixels, got {self.image_size}')
        if not 0 <= self.min_objects <= self.max_objects:
            raise ValueError(f'need 0 <= min_objects <= max_objects, got {self.min_objects} and {self.max_objects}')
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')


class Shape(NamedTuple):
    """One object."""

    category: int  # index into THINGS
    corners: np.ndarray  # (N, 2) x, y in pixels
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


class Scene(NamedTuple):
    """One image with its truth; ``segments`` has 0 to len(STUFF) - 1 for stuff, then a number for each object."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    shapes: list[Shape]
    segments: np.ndarray  # (H, W) uint8


def write_shapes(root: Path, split: str, count: int, options: ShapesOptions) -> Iterator[int]:
    """Write one split and yield the number of images done, so that the caller can show progress.

    Layout below ``root``: ``{split}/*.jpg``, ``annotations/instances_{split}.json``,
    ``annotations/panoptic_{split}.json`` and ``annotations/panoptic_{split}/*.png``.

    Args:
        root: folder; it is made if it does not exist.
        split: 'train' or 'val'; both are drawn independently of each other.
        count: number of images.
        options: size, number of objects and seed.

    Raises:
        ValueError: an unknown split or a count below 1.
    """
    if split not in SPLITS or count < 1:
        raise ValueError(f'need a split of {SPLITS} and at least 1 image, got {split!r} and {count}')
    image_folder, panoptic_folder = root / split, root / 'annotations' / f'panoptic_{split}'
    for folder in (image_folder, panoptic_folder):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    instances: list[dict] = []
    panoptic: list[dict] = []
    for number in range(count):
        scene = draw_scene(np.random.default_rng((options.seed, SPLITS.index(split), number)), options)
        name, image_id = f'{number:06d}', number + 1
        Image.fromarray(scene.image).save(image_folder / f'{name}.jpg', quality=92)
        height, width = scene.segments.shape
        images.append({'id': image_id, 'file_name': f'{name}.jpg', 'width': width, 'height': height})
        for shape in scene.shapes:
            instances.append(_instance(shape, image_id, annotation_id=len(instances) + 1))
        Image.fromarray(_panoptic_colours(scene.segments)).save(panoptic_folder / f'{name}.png')
        panoptic.append({'image_id': image_id, 'file_name': f'{name}.png', 'segments_info': _segments(scene)})
        yield number + 1
    info = {'description': 'mmdet_detr shapes', **asdict(options)}
    things = [{'id': i + 1, 'name': name, 'supercategory': 'shape'} for i, name in enumerate(THINGS)]
    stuff = [{'id': len(THINGS) + i + 1, 'name': name, 'supercategory': 'ground'} for i, name in enumerate(STUFF)]
    detection = {'info': info, 'images': images, 'annotations': instances, 'categories': things}
    categories = [{**c, 'isthing': 1} for c in things] + [{**c, 'isthing': 0} for c in stuff]
    segmentation = {'info': info, 'images': images, 'annotations': panoptic, 'categories': categories}
    for kind, content in (('instances', detection), ('panoptic', segmentation)):
        (root / 'annotations' / f'{kind}_{split}.json').write_text(json.dumps(content))


def draw_scene(rng: np.random.Generator, options: ShapesOptions) -> Scene:
    """Draw one image and its truth."""
    size = options.image_size
    regions = _regions(rng, size)
    image = _ground(rng, regions)
    segments = regions.copy()
    shapes = _place(rng, options)
    for number, shape in enumerate(shapes):
        alpha = _coverage(shape.corners, size)
        image += alpha[..., None] * (_surface(rng, size, image) - image)
        segments[alpha >= 0.5] = len(STUFF) + number
    image += rng.normal(0, rng.uniform(2, 8), image.shape)
    return Scene(image.clip(0, 255).astype(np.uint8), shapes, segments)


def _regions(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stuff (H, W): bands with slanted borders, of two or three kinds."""
    kinds = rng.permutation(len(STUFF))[: rng.integers(2, 4)]
    y, x = np.mgrid[:size, :size] / size
    slanted = y + rng.uniform(-0.4, 0.4) * (x - 0.5)
    borders = np.sort(rng.uniform(0.2, 0.8, len(kinds) - 1))
    return kinds[np.searchsorted(borders, slanted.ravel()).reshape(size, size)].astype(np.uint8)


def _ground(rng: np.random.Generator, regions: np.ndarray) -> np.ndarray:
    """Colour the regions, with soft clouds of brightness over them: (H, W, 3) float."""
    size = len(regions)
    colours = np.array(STUFF_COLOURS, dtype=np.float64) + rng.normal(0, 12, (len(STUFF), 3))
    coarse = rng.uniform(0, 255, (6, 6)).astype(np.uint8)
    clouds = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    return colours[regions] + (clouds[..., None] - 128) * 0.2


def _place(rng: np.random.Generator, options: ShapesOptions) -> list[Shape]:
    """Objects with corners inside the image that hardly overlap; fewer than drawn if they do not fit."""
    shapes: list[Shape] = []
    number = rng.integers(options.min_objects, options.max_objects + 1)
    for _ in range(20 * number):
        if len(shapes) == number:
            break
        candidate = _random_shape(rng, options.image_size)
        if all(_iou(candidate.box, other.box) <= MAX_IOU for other in shapes):
            shapes.append(candidate)
    return shapes


def _random_shape(rng: np.random.Generator, size: int) -> Shape:
    category = int(rng.integers(len(THINGS)))
    num_corners = (CIRCLE_CORNERS, 4, 3)[category]
    radius = rng.uniform(0.14, 0.28) * size
    angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(num_corners) / num_corners
    corners = radius * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    low, high = -corners.min(0), size - corners.max(0)
    corners = (corners + rng.uniform(low, high)).round(2)
    return Shape(category, corners, (*corners.min(0).tolist(), *corners.max(0).tolist()))


def _coverage(corners: np.ndarray, size: int) -> np.ndarray:
    """Share of every pixel that a polygon covers: (H, W) in 0 to 1."""
    canvas = Image.new('L', (size * SUPERSAMPLING,) * 2)
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners * SUPERSAMPLING - 0.5], fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float64) / 255


def _surface(rng: np.random.Generator, size: int, background: np.ndarray) -> np.ndarray:
    """A shaded and striped or speckled colour that differs from the background: (H, W, 3) float."""
    colour = rng.uniform(20, 235, 3)
    while np.abs(colour - background.mean((0, 1))).sum() < 120:
        colour = rng.uniform(20, 235, 3)
    direction = rng.normal(size=2)
    y, x = np.mgrid[:size, :size] / size
    slope = (direction[0] * x + direction[1] * y) / np.linalg.norm(direction)
    if rng.random() < 0.5:
        texture = 18 * np.sin(slope * 2 * np.pi * rng.uniform(4, 10))
    else:
        speckles = Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8))
        texture = (np.asarray(speckles.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64) - 128) * 0.5
    return colour + (texture + 40 * (slope - slope.mean()))[..., None]


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def _instance(shape: Shape, image_id: int, annotation_id: int) -> dict:
    x1, y1, x2, y2 = shape.box
    x, y = shape.corners.T
    area = 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    return {
        'id': annotation_id,
        'image_id': image_id,
        'category_id': shape.category + 1,
        'bbox': [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        'area': round(area, 2),
        'segmentation': [shape.corners.ravel().tolist()],
        'iscrowd': 0,
    }


def _panoptic_colours(segments: np.ndarray) -> np.ndarray:
    """Segment numbers, counted from 1, as the colours of COCO's panoptic PNGs: id = R + 256 G + 65536 B."""
    colours = np.zeros((*segments.shape, 3), dtype=np.uint8)
    colours[..., 0] = segments + 1
    return colours


def _segments(scene: Scene) -> list[dict]:
    """``segments_info`` of every segment that can be seen."""
    result = []
    for segment in np.unique(scene.segments).tolist():
        rows, columns = np.nonzero(scene.segments == segment)
        thing = segment - len(STUFF)
        category = len(THINGS) + segment if thing < 0 else scene.shapes[thing].category
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        result.append({'id': segment + 1, 'category_id': category + 1, 'area': len(rows), 'bbox': box, 'iscrowd': 0})
    return result
