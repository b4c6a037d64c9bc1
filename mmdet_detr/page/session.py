"""What one person sees of one detector on one image: found once, then read as often as the page asks."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.utils import get_test_pipeline_cfg
from PIL import Image, UnidentifiedImageError

from ..attention import ImageAttention, attend
from ..datasets.images import BrokenImageError, inspect_image
from ..errors import ConfigError, UserError
from ..inference import Detector, Result, UnreadableImageError
from ..inference.draw import Painter, enlargement
from ..inference.write import DetectionFiles

LEAST = 0.05  # detections below are never shown
LONGEST = 1280  # pixels of the picture on the page: a photograph of a phone is drawn smaller
MAX_PIXELS = 50_000_000
MAX_SEEN = 1333 * 1333  # pixels of the network's input: memory and time grow with their square
ATTENTION_COLOUR = np.array((255, 176, 0)) / 255
OPACITY = 0.9  # of the cell with the largest weight


def read(detector: Detector, path: Path) -> tuple[np.ndarray, str]:
    """Read a file that somebody gave.

    Returns:
        (H, W, 3) BGR, as the detector reads it, and a note where only a part of the file is used, else ''.

    Raises:
        UnreadableImageError: it is missing, no image, cut off, or too large; one line with the name of the file.
    """
    try:
        inspect_image(path, MAX_PIXELS)
        note = ''
        with Image.open(path) as image:
            if getattr(image, 'is_animated', False) and image.format != 'MPO':  # those of phones have a preview inside
                note = f'{path.name} is animated: its first picture is used'
            elif image.mode.startswith('I'):
                note = f'{path.name} has 16 bits: their upper half is used'
            return detector.read(image if image.format == 'GIF' else path), note
    except UnreadableImageError as error:
        raise UnreadableImageError(str(error).replace(f'{path}: ', f'{path.name}: ')) from error
    except (BrokenImageError, UnidentifiedImageError, OSError) as error:
        raise UnreadableImageError(f'{path.name}: {error}') from error


@dataclass(frozen=True)
class Findings:
    """What a detector finds in an image. Nothing here runs the detector; :func:`find` did.

    Detections are numbered from 0, the surest first, and ``count`` is the number of those above a threshold.

    Attributes:
        name: of the image.
        image: (h, w, 3) uint8 BGR, at most 1280 pixels long, and enlarged as :class:`Painter` does it.
        shown: the detections with a score of at least ``LEAST``, in pixels of ``image``.
        entries: the same in pixels of the image as it was given, in the form of ``predict``'s ``detections.json``.
        attention: what the transformer looks at; None of a detector without one.
        queries: (N,) the query of each detection; empty without ``attention``.
        reason: why there is no ``attention``.
        note: what a person should know of how the image was seen, else ''.
        painter: of the detector.
    """

    name: str
    image: np.ndarray
    shown: Result
    entries: list[dict[str, Any]]
    attention: ImageAttention | None
    queries: np.ndarray
    reason: str
    note: str
    painter: Painter

    def count(self, score_thr: float) -> int:
        """How many detections have at least this score."""
        return int((self.shown.scores >= score_thr).sum())

    def title(self, index: int) -> str:
        """What a detection is called, as in ``1 circle 0.98``."""
        return f'{index + 1} {self.shown.names[index]} {self.shown.scores[index]:.2f}'

    def rows(self, count: int) -> list[list[Any]]:
        """Number, name, score, and x, y, width and height in pixels of the given image, of each detection."""
        return [
            [number, entry['category_name'], f'{entry["score"]:.2f}', *(round(side) for side in entry['bbox'])]
            for number, entry in enumerate(self.entries[:count], start=1)
        ]

    def summary(self, count: int) -> str:
        """The picture in a sentence, for people who do not see it."""
        found = ', '.join(f'{self.shown.names[i]} {self.shown.scores[i]:.2f}' for i in range(count))
        return f'{self.name}: {found or "nothing found"}'

    def picture(self, count: int, chosen: int | None = None, panoptic: bool = False) -> np.ndarray:
        """The image with its detections.

        Args:
            count: of the detections to draw.
            chosen: the detection that stands out.
            panoptic: draw the map instead.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        result, image = self.shown.take(np.arange(count)), self.image.copy()
        if chosen is not None and not panoptic:
            _frame(image, self.shown.boxes[chosen])  # below the names
        picture = self.painter.draw(image, result if panoptic else replace(result, panoptic=None))
        if chosen is not None and panoptic:
            _frame(picture, self.shown.boxes[chosen])
        return np.ascontiguousarray(picture[..., ::-1])

    def at(self, x: float, y: float, count: int) -> int | None:
        """The detection at a point of :meth:`picture`: the smallest box around it; None if there is none."""
        left, top, right, bottom = self.shown.boxes[:count].T
        around = np.flatnonzero((left <= x) & (x <= right) & (top <= y) & (y <= bottom))
        areas = ((right - left) * (bottom - top))[around]
        return int(around[areas.argmin()]) if len(around) else None

    def look(self, index: int, layer: int | None = None, head: int | None = None) -> tuple[np.ndarray, str]:
        """Where the query of a detection looks in a decoder layer, with the query's box after that layer.

        Args:
            index: of the detection.
            layer: counted from 1; the last by default.
            head: counted from 1; the mean of all by default.

        Returns:
            (H, W, 3) uint8 RGB, and what it shows in a sentence.

        Raises:
            UserError: there is no such layer or head, or the detector has no queries.
        """
        if self.attention is None:
            raise UserError(self.reason)
        query, number = int(self.queries[index]), self.attention.decoder_layer(layer)
        image = self.image[..., ::-1] / 255
        weights = self.attention.decoder(query, layer, head, size=(image.shape[0], image.shape[1]))
        opacity = OPACITY * (weights / weights.max())[..., None]
        dimmed = (0.3 * image + 0.7 * image.mean(2, keepdims=True)) * 0.6
        picture = np.rint(255 * ((1 - opacity) * dimmed + opacity * ATTENTION_COLOUR)).clip(0, 255).astype(np.uint8)
        then = self.attention.layers[number - 1].take(np.array([query]))
        scale = np.array(picture.shape[1::-1] * 2) / np.array(self.attention.size[::-1] * 2)
        _frame(picture, then.boxes[0] * scale)
        of_heads = f'the mean of {self.attention.num_heads} heads' if head is None else f'head {head}'
        layers = self.attention.num_decoder_layers
        return picture, (
            f'Where query {query} looks to find {self.title(index)}: decoder layer {number} of {layers}, {of_heads}. '
            f'The brightest cell has {weights.max():.1%} of all weight. '
            f'The box is that of the query after this layer: {then.names[0]} {then.scores[0]:.2f}.'
        )

    def json(self, count: int) -> str:
        """The detections in the form of ``predict``'s ``detections.json``."""
        return json.dumps(self.entries[:count], indent=1) + '\n'


def find(detector: Detector, image: np.ndarray, name: str) -> Findings:
    """Run a detector once.

    Args:
        detector: any of :func:`mmdet_detr.load`.
        image: (H, W, 3) BGR uint8.
        name: of the image.
    """
    attention, reason, note, queries = None, '', '', np.zeros(0, dtype=np.int64)
    size = image.shape[:2]
    resizes = any('Resize' in str(step['type']) for step in get_test_pipeline_cfg(detector.model.cfg))
    if not resizes and size[0] * size[1] > MAX_SEEN:
        image = _scaled(image, (MAX_SEEN / (size[0] * size[1])) ** 0.5)
        note = f'seen at {image.shape[1]} x {image.shape[0]} pixels, because the config does not resize it'
    try:
        attention = attend(detector, image, LEAST)
        found = attention.found
        queries = queries_of(found, attention.layers[-1])
    except ConfigError as error:
        reason, found = str(error), detector(image, LEAST)
    shown = _scaled(image, min(LONGEST / max(image.shape[:2]), enlargement(image)))
    return Findings(
        name=name,
        image=shown,
        shown=_resized(found, image.shape[:2], shown.shape[:2]),
        entries=_entries(_resized(found, image.shape[:2], size), name),
        attention=attention,
        queries=queries,
        reason=reason,
        note=note,
        painter=Painter(detector.classes, detector.palette),
    )


def queries_of(found: Result, queries: Result) -> np.ndarray:
    """Which query each of N detections is of: the one with the same box, and of equal boxes the one with its score.

    Args:
        found: the detections.
        queries: what each of Q queries finds.

    Returns:
        (N,) int64.
    """
    distances = np.abs(found.boxes[:, None] - queries.boxes).max(-1) + np.abs(found.scores[:, None] - queries.scores)
    return distances.argmin(1) if len(found) else np.zeros(0, dtype=np.int64)


def _resized(result: Result, size: tuple[int, int], new: tuple[int, int]) -> Result:
    """Detections in an image of another size (h, w)."""
    if size == new:
        return result
    rows, columns = (np.arange(n) * old // n for n, old in zip(new, size, strict=True))
    scale = np.array((new[1] / size[1], new[0] / size[0]) * 2, dtype=np.float32)
    masks = None if result.masks is None else result.masks[:, rows[:, None], columns]
    panoptic = None if result.panoptic is None else result.panoptic[rows[:, None], columns]
    return replace(result, boxes=result.boxes * scale, masks=masks, panoptic=panoptic)


def _scaled(image: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC if factor >= 1 else cv2.INTER_AREA)


def _entries(result: Result, name: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        with DetectionFiles(Path(folder)) as files:
            files.write(name, result)
        return json.loads((Path(folder) / 'detections.json').read_text(encoding='utf-8'))


def _frame(picture: np.ndarray, box: np.ndarray) -> None:
    """Draw a box that is seen on every background."""
    left, top, right, bottom = (round(float(side)) for side in box)
    width = max(2, round(min(picture.shape[:2]) / 200))
    for colour, thickness in (((0, 0, 0), 3 * width), ((255, 255, 255), width)):
        cv2.rectangle(picture, (left, top), (right, bottom), colour, thickness)
