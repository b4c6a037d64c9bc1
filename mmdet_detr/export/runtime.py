"""Runs an exported DETR with numpy, Pillow and onnxruntime or openvino; without torch and mmdet.

This file lies beside the model and needs nothing else::

    from detr_runtime import Detector

    for result in Detector('detr.onnx')(['a.jpg', 'b.jpg']):
        print(result.names, result.scores, result.boxes)

In the terminal: ``python detr_runtime.py detr.onnx a.jpg b.jpg --out predictions``

ARRAYS ARE BGR, as in OpenCV and mmdet: (H, W, 3) uint8. Boxes are x1, y1, x2, y2 in pixels of the upright image.

The model file is ``detr.onnx``, or ``detr.xml`` with ``detr.bin``. With B images and N detections in each:

- Input ``images`` (B, 3, H, W): float32 and normalised, or uint8 where the metadata say so. Each image is in the top
  left corner, with zeros around it. Input ``sizes`` (B, 2) int64: height and width of each image without the zeros.
  B, H and W can each be fixed in the file.
- Outputs ``boxes`` (B, N, 4) float32 in pixels of the input, ``scores`` (B, N) float32, the highest first, and
  ``labels`` (B, N) int64. Models with masks have ``masks`` (B, K, h, w) float32, too: logits of the first K <= N
  detections, on a grid over the whole input; and ``queries`` (B, N) int64, in whose order a panoptic map is made, -1
  where nothing is the likeliest and the map leaves it out.
- Metadata: :class:`Metadata` as JSON named ``mmdet_detr``, in ONNX's ``metadata_props`` or OpenVINO's ``rt_info``.
"""

import argparse
import colorsys
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
except ImportError as error:
    kind = SystemExit if __name__ == '__main__' else ImportError
    raise kind(f"{error}: pip install numpy 'pillow>=10.1'") from None

FORMAT_VERSION = 1
INSTANCE_OFFSET = 1000  # of panoptic maps, as in mmdet
MASKS_AT_ONCE = 8  # enlarged masks in memory
MAX_INPUT_PIXELS = 2**24  # of an image in the network's input; beyond, attention takes tens of gigabytes
SHOWN_SIZES = (480, 4000)  # longer side of a picture in pixels: others are enlarged by a whole number, or shrunk
FONTS = ('DejaVuSans.ttf', 'arial.ttf', 'Arial.ttf')  # Pillow's own knows English letters only
OPACITY = 0.45  # of masks in pictures

ImageLike = str | Path | np.ndarray | Image.Image
Size = tuple[int, int]
Colour = tuple[int, int, int]


class DetectorError(ValueError):
    """A model or an image cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Metadata:
    """What the model file says about its input and output."""

    format_version: int
    classes: list[str]
    mean: list[float]
    std: list[float]
    channel_order: str  # 'rgb' or 'bgr', of the input, the mean and the std
    uint8: bool  # the graph normalises
    raw: bool  # the outputs are logits and normalised boxes, which this file does not read
    resize: dict[str, Any] | None  # {'shortest': 800, 'longest': 1333 or None}
    pad_size_divisor: int
    score_thr: float  # default of the detector
    min_score: float = 0.0  # detections are above it, whatever threshold is asked for
    precision: str | None = None  # OpenVINO computes in 'bfloat16', or else in float32
    palette: list[list[int]] | None = None  # RGB of each class
    num_things_classes: int | None = None  # labels from here on are stuff, if there are any
    panoptic_score_thr: float | None = None
    min_area: int | None = None


@dataclass(frozen=True)
class Result:
    """Detections in an image, the surest first.

    Attributes:
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the upright image.
        scores: (N,) float32, between 0 and 1.
        labels: (N,) int64, indices of the model's classes.
        names: of the classes of the detections.
        masks: (N, h, w) bool of a model with masks, else None.
        panoptic: (h, w) int64 of a panoptic model, else None: label + 1000 * number of the instance, counted from 1,
            and 0 for stuff. The number of classes stands where nothing was found.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    masks: np.ndarray | None = None
    panoptic: np.ndarray | None = None


class Prepared(NamedTuple):
    """An image, ready for the network."""

    name: str
    image: Image.Image  # upright RGB
    pixels: np.ndarray  # (3, h, w), in the order, type and range of the input
    size: Size  # (h, w)


class Detector:
    """A model, with what is done before and behind it.

    Attributes:
        metadata: of the model.

    Args:
        model: ``.onnx``, or ``.xml`` with its ``.bin``.
        batch_size: images that the network sees at once, at most; a model that was exported for a fixed number takes
            that one. Images are padded to the largest of their batch, which can change a little what is found. A model
            with masks takes images of one size at once, without padding.
        threads: of the processor; None leaves it to the library.

    Raises:
        DetectorError: the file is missing, broken or of another kind, or the library for it is missing.
    """

    def __init__(self, model: str | Path, batch_size: int = 1, threads: int | None = None) -> None:
        if batch_size < 1 or (threads is not None and threads < 1):
            raise DetectorError(f'batch_size={batch_size} and threads={threads} have to be at least 1')
        self.path = Path(model)
        self._network = _open(self.path, threads)
        self.metadata = self._network.metadata
        self._fixed_count, _, *self._fixed_size = self._network.shape
        self._batch_size = self._fixed_count or batch_size

    def __call__(self, images: Sequence[ImageLike], score_thr: float | None = None) -> list[Result]:
        """Find objects.

        Args:
            images: paths, PIL images, or arrays (H, W, 3) **BGR** uint8, of any sizes. See :func:`read_image`.
            score_thr: detections below are left out; by default the metadata's.

        Raises:
            DetectorError: an image cannot be read or does not fit the model; ``score_thr`` is not between 0 and 1.
        """
        if isinstance(images, str | Path | np.ndarray | Image.Image):
            raise DetectorError('give a list of images, as in detector([image])')
        prepared = (self.prepare(image) for image in images)
        return [result for batch in self.batches(prepared) for result in self.detect(batch, score_thr)]

    def prepare(self, image: ImageLike) -> Prepared:
        """Read and resize an image, and bring its pixels into the form of the network's input.

        Raises:
            DetectorError: it cannot be read or does not fit the model.
        """
        name = str(image) if isinstance(image, str | Path) else 'an image'
        meta, upright = self.metadata, read_image(image)
        size = official_size(*upright.size, **meta.resize) if meta.resize else upright.size
        self._require_fit(name, size)
        resized = upright.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(resized).transpose(2, 0, 1)[:: 1 if meta.channel_order == 'rgb' else -1]
        if not meta.uint8:
            mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (meta.mean, meta.std))
            pixels = (pixels.astype(np.float32) - mean) / std
        return Prepared(name, upright, pixels, size[::-1])

    def batches(self, prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
        """Lists of at most ``batch_size``; shorter ones where padding would take too much memory, or change masks."""
        batch: list[Prepared] = []
        for item in prepared:
            height, width = self._padded_size([*batch, item])
            other = bool(batch) and self.metadata.min_area is not None and item.size != batch[0].size
            if batch and (other or len(batch) == self._batch_size or height * width > MAX_INPUT_PIXELS):
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def detect(self, batch: Sequence[Prepared], score_thr: float | None = None) -> list[Result]:
        """Results of one pass of the network; arguments and errors as in :meth:`__call__`."""
        score_thr = self.metadata.score_thr if score_thr is None else _share(score_thr)
        input_size = self._padded_size(batch)
        filled = [*batch, *[batch[0]] * ((self._fixed_count or 0) - len(batch))]  # zeros alone would give NaN
        images = np.zeros((len(filled), 3, *input_size), np.uint8 if self.metadata.uint8 else np.float32)
        for padded, item in zip(images, filled, strict=True):
            padded[:, : item.size[0], : item.size[1]] = item.pixels
        sizes = np.array([item.size for item in filled], np.int64)
        try:
            outputs = self._network.run({'images': images, 'sizes': sizes})
        except Exception as error:  # the libraries raise anything
            names = ', '.join(item.name for item in batch)
            raise DetectorError(f'{self.path} fails on {names}: {_one_line(error)}') from None
        boxes, scores, labels = (outputs[name] for name in ('boxes', 'scores', 'labels'))
        masks, queries = outputs.get('masks'), outputs.get('queries')
        number = None if masks is None else masks.shape[1]  # detections without a mask are dropped
        results = []
        for i, item in enumerate(batch):
            found = boxes[i, :number], scores[i, :number], labels[i, :number]
            logits = None if masks is None else masks[i]
            order = None if queries is None else queries[i, :number]
            if not all(np.isfinite(values).all() for values in (*found, logits) if values is not None):
                raise DetectorError(f'{self.path} gives NaN or infinity for {item.name}')
            results.append(self._result(item, *found, logits, order, input_size, score_thr))
        return results

    def _result(
        self,
        item: Prepared,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        logits: np.ndarray | None,
        queries: np.ndarray | None,
        input_size: Size,
        score_thr: float,
    ) -> Result:
        meta = self.metadata
        num_classes = len(meta.classes)
        num_things = num_classes if meta.num_things_classes is None else meta.num_things_classes
        width, height = item.image.size
        sizes = input_size, item.size, (height, width)
        kept = (scores >= score_thr) & (labels < num_things)
        kept &= (scores > np.float32(meta.min_score)) | (meta.min_score == 0)
        masks = panoptic = None
        if logits is not None:
            masks = instance_masks(logits[kept], *sizes)
        if logits is not None and num_things < num_classes:
            order = np.arange(len(labels)) if queries is None else queries
            sure = np.flatnonzero((scores > np.float32(meta.panoptic_score_thr or 0)) & (order >= 0))
            sure = sure[order[sure].argsort()]
            panoptic = panoptic_map(logits[sure], labels[sure], num_things, num_classes, meta.min_area or 0, *sizes)
        scale = np.array([item.size[1] / width, item.size[0] / height] * 2, np.float32)
        boxes = (boxes[kept] / scale).clip(0, np.array([width, height] * 2, np.float32))
        names = [meta.classes[label] for label in labels[kept]]
        return Result(boxes, scores[kept], labels[kept], names, masks, panoptic)

    def _padded_size(self, batch: Sequence[Prepared]) -> Size:
        divisor = self.metadata.pad_size_divisor
        largest = np.max([item.size for item in batch], axis=0)
        height, width = (-(-largest // divisor) * divisor).tolist()
        return self._fixed_size[0] or height, self._fixed_size[1] or width

    def _require_fit(self, name: str, size: Size) -> None:
        given = f'{name} is {size[0]} x {size[1]} pixels in the input of the network'
        limits = self._fixed_size[::-1]
        if any(limit and length > limit for length, limit in zip(size, limits, strict=True)):
            raise DetectorError(f'{given}, and {self.path} takes {" x ".join(str(limit or "any") for limit in limits)}')
        if size[0] * size[1] > MAX_INPUT_PIXELS:
            raise DetectorError(f'{given}, more than {MAX_INPUT_PIXELS} in all: cut it into tiles')


class _Network(NamedTuple):
    """A model in the hands of one of the libraries."""

    metadata: Metadata
    shape: Sequence[int | None]  # of ``images``; None where any length is taken
    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise DetectorError(f'score_thr has to be between 0 and 1, got {value}')
    return value


def _open(path: Path, threads: int | None) -> _Network:
    library = {'.onnx': 'onnxruntime', '.xml': 'openvino'}.get(path.suffix)
    if library is None:
        raise DetectorError(f'{path} is no model: name a file .onnx or .xml')
    for file in (path, path.with_suffix('.bin') if path.suffix == '.xml' else path):
        if not file.is_file():
            raise DetectorError(f'{file} is missing')
    try:
        return (_open_onnx if path.suffix == '.onnx' else _open_openvino)(str(path), threads)
    except DetectorError as error:
        raise DetectorError(f'{path} {error}') from None
    except ImportError as error:
        raise DetectorError(f'{path} needs {library}: pip install {library} ({_one_line(error)})') from None
    except Exception as error:  # the libraries raise anything
        raise DetectorError(f'{path} is broken or was not exported by mmdet_detr: {_one_line(error)}') from None


def _metadata(text: str | None) -> Metadata:
    if not text:
        raise DetectorError('was not exported by mmdet_detr: it has no metadata')
    entries = json.loads(text)
    if entries['format_version'] != FORMAT_VERSION:
        raise DetectorError(f'has format {entries["format_version"]}: use the detr_runtime.py that lies beside it')
    metadata = Metadata(**{field.name: entries[field.name] for field in fields(Metadata) if field.name in entries})
    if metadata.raw:
        raise DetectorError('was exported raw, for programs of your own: its outputs are logits')
    return metadata


def _open_onnx(path: str, threads: int | None) -> _Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = threads or 0
    # Without it, errors are printed and everything is tried again on the same processor.
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'], enable_fallback=0)
    metadata = _metadata(session.get_modelmeta().custom_metadata_map.get('mmdet_detr'))
    shape = next(given.shape for given in session.get_inputs() if given.name == 'images')
    names = [output.name for output in session.get_outputs()]
    return _Network(
        metadata,
        [length if isinstance(length, int) else None for length in shape],
        lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)),
    )


def _open_openvino(path: str, threads: int | None) -> _Network:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    metadata = _metadata(model.get_rt_info('mmdet_detr').value if model.has_rt_info('mmdet_detr') else None)
    # Without the hint, some processors compute in bfloat16.
    options: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'bf16' if metadata.precision == 'bfloat16' else 'f32'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(model, 'CPU', options)
    names = [output.any_name for output in model.outputs]

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = compiled(feeds)
        return {name: outputs[name] for name in names}

    shape = model.input('images').partial_shape
    return _Network(metadata, [length.get_length() if length.is_static else None for length in shape], run)


def read_image(image: ImageLike) -> Image.Image:
    """An image as mmdet reads it: the same pixels, upright by EXIF's orientation, without transparency.

    Args:
        image: a path; a PIL image of any mode but ``F``, which is not changed; or an array (H, W, 3) **BGR**,
            (H, W, 4) BGRA or (H, W) grey, uint8 or uint16, of which the higher bytes are taken.

    Returns:
        An RGB image.

    Raises:
        DetectorError: it cannot be read, or is something else.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _upright(image)
    if not isinstance(image, str | Path):
        raise DetectorError(f'no path, PIL image or array: {image!r}')
    try:
        if Path(image).stat().st_size == 0:
            raise ValueError('empty')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow refuses images above twice the size that it warns of
            with Image.open(image) as opened:
                return _upright(opened)
    except UnidentifiedImageError:
        raise DetectorError(f'{image}: no image') from None
    except Exception as error:  # Pillow's decoders raise anything on broken bytes
        raise DetectorError(f'{image}: {getattr(error, "strerror", None) or _one_line(error)}') from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        image.load()  # raises where data are missing
        if image.format != 'WEBP' and image.getexif().get(0x0112, 1) != 1:  # OpenCV does not turn a WebP
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise anything on broken bytes
        raise DetectorError(f'the image is broken or cut off: {_one_line(error)}') from None
    if image.mode == 'F':
        raise DetectorError('an image of mode F has no defined range: convert it to 8 bits first')
    if image.mode.startswith('I'):
        return _from_array(np.asarray(image).astype(np.uint16))
    if image.mode == 'CMYK':  # OpenCV's arithmetic
        ink = np.asarray(image).astype(np.uint16)
        light = 255 - ink[..., 3:]
        return Image.fromarray((light - (ink[..., :3] * light >> 8)).astype(np.uint8))
    return image if image.mode == 'RGB' else image.convert('RGB')


def _from_array(array: np.ndarray) -> Image.Image:
    pixels = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        kind = f'an array of shape {array.shape} and type {array.dtype}'
        raise DetectorError(f'{kind} is no image: give (H, W, 3) BGR of uint8')
    pixels = pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels[..., 2::-1]
    return Image.fromarray(np.ascontiguousarray(pixels))


def official_size(width: int, height: int, shortest: int, longest: int | None = None) -> Size:
    """The size (width, height) that the official DETR resizes an image to.

    The shorter side becomes ``shortest``, or less if the longer one would exceed ``longest``. The bound applies to the
    rounded shorter side, so the longer side can end a pixel above it.
    """
    short, long = sorted((width, height))
    if longest is not None and long / short * shortest > longest:
        shortest = round(longest * short / long)
    shortest = max(1, shortest)
    if width < height:
        return shortest, int(shortest * height / width)
    return int(shortest * width / height), shortest


def enlarged(logits: np.ndarray, input_size: Size, image_size: Size) -> np.ndarray:
    """Mask logits (N, h, w) at the pixels of an image (N, *image_size), which lies in the corner of a padded input."""
    planes = [Image.fromarray(plane).resize(input_size[::-1], Image.Resampling.BILINEAR) for plane in logits]
    return np.stack([np.asarray(plane)[: image_size[0], : image_size[1]] for plane in planes])


def instance_masks(logits: np.ndarray, input_size: Size, image_size: Size, size: Size) -> np.ndarray:
    """Masks (N, *size), bool, of mask logits (N, h, w); the sizes are (height, width) in pixels."""
    rows, columns = (_nearest(*lengths) for lengths in zip(image_size, size, strict=True))
    masks = np.empty((len(logits), *size), bool)
    for mask, plane in zip(masks, logits, strict=True):
        mask[:] = (enlarged(plane[None], input_size, image_size)[0] > 0)[rows][:, columns]
    return masks


def panoptic_map(
    logits: np.ndarray,
    labels: np.ndarray,
    num_things_classes: int,
    num_classes: int,
    min_area: int,
    input_size: Size,
    image_size: Size,
    size: Size,
) -> np.ndarray:
    """Give every pixel to the detection with the highest mask logit.

    Of several with the same class of stuff, the first gets the pixels. Segments that are smaller than ``min_area``
    are removed, and their pixels go to the best of the others, until none is left that is too small.

    Args:
        logits: (N, h, w) of the detections that are kept.
        labels: (N,) of them; those below ``num_things_classes`` are things.
        num_things_classes: number of the classes of things.
        num_classes: things and stuff.
        min_area: in pixels of the map.
        input_size: (height, width) of the padded input.
        image_size: of the image in it.
        size: of the map.

    Returns:
        Int64 (*size), see :class:`Result`.
    """
    rows, columns = (_nearest_by_centre(*lengths) for lengths in zip(image_size, size, strict=True))
    # How often each pixel of the input comes in the map, so that areas take no map in the size of the photograph.
    copies = np.outer(np.bincount(rows, minlength=image_size[0]), np.bincount(columns, minlength=image_size[1]))
    kept: np.ndarray = np.arange(len(labels))
    while len(kept):
        best = _best(logits[kept], input_size, image_size)
        if len(kept) == len(labels):  # nothing removed yet
            same = (labels[:, None] == labels) & (labels >= num_things_classes) | np.eye(len(labels), dtype=bool)
            best = same.argmax(1)[best]
        large = np.bincount(best.ravel(), copies.ravel(), len(kept)) >= min_area
        if large.all():
            kinds = labels[kept]
            numbers = np.tril(kinds[:, None] == kinds).sum(1) * (kinds < num_things_classes)
            return (kinds + INSTANCE_OFFSET * numbers)[best][rows][:, columns]
        kept = kept[large]
    return np.full(size, num_classes, np.int64)


def _best(logits: np.ndarray, input_size: Size, image_size: Size) -> np.ndarray:
    """Index of the highest logit at every pixel of the image."""
    highest: np.ndarray = np.full(image_size, -np.inf, np.float32)
    best: np.ndarray = np.zeros(image_size, np.int64)
    for first in range(0, len(logits), MASKS_AT_ONCE):
        planes = enlarged(logits[first : first + MASKS_AT_ONCE], input_size, image_size)
        best = np.where(planes.max(0) > highest, planes.argmax(0) + first, best)
        highest = np.maximum(highest, planes.max(0))
    return best


def _nearest(length: int, size: int) -> np.ndarray:
    """Index of the source pixel of every one of ``size`` pixels, as torch counts: in float32."""
    scale = np.float32(length) / np.float32(size)
    return np.minimum((np.arange(size, dtype=np.float32) * scale).astype(np.int64), length - 1)


def _nearest_by_centre(length: int, size: int) -> np.ndarray:
    """The same as Pillow counts: by pixel centres."""
    steps = np.full(size, length / size)
    steps[:1] /= 2
    return np.floor(steps.cumsum()).astype(np.int64).clip(max=length - 1)


def draw(image: Image.Image, result: Result, metadata: Metadata) -> Image.Image:
    """A picture of a result: boxes with names and scores and the masks below them, or the panoptic map with names.

    Args:
        image: upright RGB, not changed.
        result: of the image.
        metadata: of the model.

    Returns:
        An RGB image; small ones are enlarged so that names can be read, and those above 4000 pixels shrunk. Where
        names would cover each other, the surest are shown.
    """
    longer = max(image.size)
    scale = max(1, SHOWN_SIZES[0] // longer) if longer <= SHOWN_SIZES[1] else SHOWN_SIZES[1] / longer
    width, height = (max(1, round(side * scale)) for side in image.size)
    picture = image.resize((width, height), Image.Resampling.BICUBIC)
    pen, text_size = ImageDraw.Draw(picture), min(max(12, min(width, height) // 40), 48)
    rows, columns = _nearest_by_centre(image.height, height), _nearest_by_centre(image.width, width)
    colours = _colours(metadata)
    named: list[tuple[Sequence[float], int, str]] = []  # box, label, text
    if result.panoptic is not None:
        values = result.panoptic[rows][:, columns]
        for value in np.unique(values).tolist():
            label, mask = value % INSTANCE_OFFSET, values == value
            if label < len(metadata.classes):
                _blend(picture, mask, colours[label])
                named.append((_place(mask), label, metadata.classes[label]))
    else:
        texts = [f'{name} {score:.2f}' for name, score in zip(result.names, result.scores, strict=True)]
        named = list(zip((result.boxes * scale).tolist(), result.labels.tolist(), texts, strict=True))
        for mask, label in zip(() if result.masks is None else result.masks, result.labels.tolist(), strict=False):
            _blend(picture, mask[rows][:, columns], colours[label])
        for box, label, _ in named[::-1]:  # the surest on top
            pen.rectangle(box, outline=colours[label], width=max(2, text_size // 6))
    taken: list[Sequence[float]] = []
    for box, label, text in named:
        _write(pen, text, box, colours[label], text_size, (width, height), taken)
    return picture


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: Sequence[float],
    colour: Colour,
    text_size: int,
    size: Size,
    taken: list[Sequence[float]],
) -> None:
    """Write above, in or below a box, where no other text is yet; or nowhere."""
    font, padding = _font(text_size), max(2, text_size // 5)
    width, height = font.getlength(text) + 2 * padding, text_size + 2 * padding
    start = box[0] if box[2] > box[0] else box[0] - width / 2
    left = max(0, min(start, size[0] - width))
    for top in (box[1] - height, box[1], box[3] - height, box[3]):
        area = (left, top, left + width, top + height)
        free = all(area[2] <= x1 or x2 <= left or area[3] <= y1 or y2 <= top for x1, y1, x2, y2 in taken)
        if free and 0 <= top <= size[1] - height:
            taken.append(area)
            pen.rectangle(area, fill=colour)
            light = np.dot(colour, (0.299, 0.587, 0.114)) > 140
            pen.text((left + padding, top + height / 2), text, 'black' if light else 'white', font, anchor='lm')
            return


def _place(mask: np.ndarray) -> tuple[float, float, float, float]:
    """A box without size in the middle of a mask: on the pixel of it that is next to its mean."""
    rows, columns = mask.nonzero()
    nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    return columns[nearest], rows[nearest], columns[nearest], rows[nearest]


def _blend(picture: Image.Image, mask: np.ndarray, colour: Colour) -> None:
    """Lay a mask in the size of a picture over it, with a white edge."""
    padded = np.pad(mask, 1, mode='edge')
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    picture.paste(colour, mask=Image.fromarray(mask * np.uint8(255 * OPACITY)))
    picture.paste((255, 255, 255), mask=Image.fromarray((mask & ~inner) * np.uint8(255)))


def _colours(metadata: Metadata) -> list[Colour]:
    """The palette, or bright colours of which neighbours are far apart."""
    if metadata.palette:
        return [(red, green, blue) for red, green, blue in metadata.palette]
    shades = [(0.85, 0.95), (0.85, 0.75), (0.6, 0.95), (0.6, 0.75)]
    rows = [colorsys.hsv_to_rgb((0.97 + i * 0.618034) % 1, *shades[i // 4 % 4]) for i in range(len(metadata.classes))]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in rows]


@cache
def _font(size: int) -> Any:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:300]} ...'


class _Folder:
    """A picture of each image, PNGs of its masks, and ``detections.json``."""

    def __init__(self, folder: Path, images: Sequence[str], metadata: Metadata) -> None:
        for image in images:
            if Path(image).resolve().parent == folder.resolve():
                raise DetectorError(f'{image} lies in the folder of the pictures: choose another --out')
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.metadata = folder, metadata
        self.entries: list[dict[str, Any]] = []
        self._stems: set[str] = set()

    def write(self, item: Prepared, result: Result) -> None:
        stem = Path(item.name).stem
        stem = next(name for i in count(1) if (name := stem if i == 1 else f'{stem}_{i}') not in self._stems)
        self._stems.add(stem)
        draw(item.image, result, self.metadata).save(self.folder / f'{stem}.jpg', quality=90)
        values = zip(result.names, result.labels.tolist(), result.scores.tolist(), result.boxes.tolist(), strict=True)
        found: list[dict[str, Any]] = [
            {'class': name, 'label': label, 'score': round(score, 4), 'box': [round(side, 2) for side in box]}
            for name, label, score, box in values
        ]
        for i, mask in enumerate(() if result.masks is None else result.masks):
            found[i]['mask'] = self._save(f'{stem}.mask{i}.png', mask * np.uint8(255))
        entry = {'file': item.name, 'width': item.image.width, 'height': item.image.height, 'picture': f'{stem}.jpg'}
        if result.panoptic is not None:  # as in COCO's panoptic PNGs: red + 256 * green + 65536 * blue
            coded = np.stack([(result.panoptic >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)], axis=-1)
            entry['panoptic'] = self._save(f'{stem}.panoptic.png', coded)
        self.entries.append({**entry, 'detections': found})

    def _save(self, name: str, pixels: np.ndarray) -> str:
        Image.fromarray(pixels).save(self.folder / name)
        return name

    def close(self) -> None:
        lines = ',\n'.join(map(json.dumps, self.entries))  # an image a line
        (self.folder / 'detections.json').write_text(f'[{lines}]\n', encoding='utf-8')


def _run(detector: Detector, paths: Sequence[str], score_thr: float | None, folder: _Folder) -> None:
    """Write what is found, with a line for each image, and leave out those that fail."""
    numbers = count(1)

    def report(text: str) -> None:
        print(f'[{next(numbers)}/{len(paths)}] {text}', file=sys.stderr, flush=True)

    def prepared() -> Iterator[Prepared]:
        for path in paths:
            try:
                yield detector.prepare(path)
            except DetectorError as error:
                report(f'left out {error}')

    def detect(batch: Sequence[Prepared]) -> None:
        try:
            results = detector.detect(batch, score_thr)
        except DetectorError as error:
            if len(batch) == 1:
                report(f'left out {batch[0].name}: {error}')
                return
            results = []
            for item in batch:  # one of them is to blame
                detect([item])
        for item, result in zip(batch, results, strict=False):
            folder.write(item, result)
            report(f'{item.name}: {len(result.scores)} found')

    for batch in detector.batches(prepared()):
        detect(batch)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 1 if an image was left out, 2 if nothing could be done."""
    parser = argparse.ArgumentParser(
        prog='detr_runtime.py', description='Find objects in images: pictures and detections.json.'
    )
    parser.add_argument('model', metavar='MODEL', help='exported detector, .onnx or .xml')
    parser.add_argument('images', metavar='IMAGE', nargs='+', help='image files')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write (default: predictions)')
    parser.add_argument('--score-thr', type=float, help="detections below are left out (default: the model's)")
    parser.add_argument('--batch-size', type=int, default=1, help='images at once (default: 1)')
    parser.add_argument('--threads', type=int, help='of the processor (default: all)')
    args = parser.parse_args(argv)
    try:
        detector = Detector(args.model, args.batch_size, args.threads)
        if args.score_thr is not None:
            _share(args.score_thr)
        folder = _Folder(args.out, args.images, detector.metadata)
        try:
            _run(detector, args.images, args.score_thr, folder)
        finally:
            folder.close()
    except (DetectorError, OSError) as error:
        print(f'detr_runtime: {_one_line(error)}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 1
    done = len(folder.entries)
    total = sum(len(entry['detections']) for entry in folder.entries)
    print(f'{total} found in {done} of {len(args.images)} images: pictures and detections.json in {args.out}')
    return 0 if done == len(args.images) else 1 if done else 2


if __name__ == '__main__':
    sys.exit(main())
