"""What a DETR looks at in an image, from one pass of the network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, UserError
from ..inference import Detector, Result
from ..inference.images import ImageLike
from ..models import AuxiliaryHeadDetector, DETRHead, TransformerNeck, attention_weights
from ..models.attention_weights import AttentionWeights
from ..models.masks import MaskHead
from ..models.padding import Size
from ..models.transformer import Attention
from ..models.transformer_neck import TransformerOutput
from .cells import CellMap


@dataclass(frozen=True)
class ImageAttention:
    """What a DETR looks at in an image. :func:`attend` makes one; reading a map does not run the network again.

    Maps are float32 (h, w) in pixels of the image, or of ``size=``. Each pixel has the weight of the cell of
    the feature map that covers it, the sum over the levels where the transformer reads several. Layers and heads count
    from 1; without ``layer``, it is the last one, without ``head``, the mean of all heads. Queries are indices, from 0.

    Attributes:
        image: (H, W, 3) BGR uint8.
        layers: boxes of all Q queries after each of the L decoder layers, in the order of the queries: the class with
            the best score, which is low where a query finds nothing.
        queries: (N,) int64, those with at least ``score_thr`` after the last layer, the surest first.
        score_thr: the least score of a detection.
        found: what the detector itself gives from this score on, with its masks and its map.
        num_heads: heads of every attention.
        num_encoder_layers: 0 or more.
        num_mask_heads: attention maps of the mask head; 0 without one.
    """

    image: np.ndarray
    layers: list[Result]
    queries: np.ndarray
    score_thr: float
    found: Result
    num_heads: int
    num_encoder_layers: int
    num_mask_heads: int
    cells: CellMap
    weights: AttentionWeights
    mask_attention: Callable[[int], Tensor] | None

    @property
    def detections(self) -> Result:
        """The N detections of ``queries``."""
        return self.layers[-1].take(self.queries)

    @property
    def num_decoder_layers(self) -> int:
        return len(self.layers)

    @property
    def size(self) -> Size:
        """(h, w) of the image."""
        return self.cells.size

    def decoder(
        self, query: int, layer: int | None = None, head: int | None = None, size: Size | None = None
    ) -> np.ndarray:
        """Where a query looks in the memory, to find its object (paper figure 6).

        Raises:
            UserError: there is no such query, layer or head.
        """
        number = self.decoder_layer(layer)
        self._require_query(query)
        return self._map(f'decoder.layers.{number - 1}.multihead_attn', query, head, size)

    def encoder(
        self, x: float, y: float, layer: int | None = None, head: int | None = None, size: Size | None = None
    ) -> np.ndarray:
        """What the cell at a point takes from other cells in the encoder's self-attention (paper figure 3).

        Args:
            x: of the point, in pixels of the image.
            y: likewise.
            layer: of the encoder.
            head: of its attention.
            size: of the map.

        Raises:
            UserError: the point is outside the image, or there is no such layer or head.
        """
        number = self.encoder_layer(layer)
        return self._map(f'encoder.layers.{number - 1}.self_attn', self.cell_at(x, y), head, size)

    def mask_head(self, query: int, head: int | None = None, size: Size | None = None) -> np.ndarray:
        """The attention map from which the mask head makes the mask of a query (paper figure 8).

        Its softmax goes over heads and cells together: without ``head``, it is their sum.

        Raises:
            UserError: the detector has no mask head, or there is no such query or head.
        """
        weights = self.mask_weights(query)
        chosen = weights.sum(0) if head is None else weights[_number('head', head, len(weights)) - 1]
        return self.cells.at_pixels(chosen, size)

    def mask_weights(self, query: int) -> np.ndarray:
        """The weights (heads, S) of :meth:`mask_head` on the cells of the transformer; their sum is 1."""
        if self.mask_attention is None:
            raise UserError('the detector has no mask head')
        self._require_query(query)
        return self.mask_attention(query).float().cpu().numpy()

    def decoder_layer(self, layer: int | None) -> int:
        """The number of a decoder layer: the last by default; a UserError if there is no such one."""
        return _number('decoder layer', self.num_decoder_layers if layer is None else layer, self.num_decoder_layers)

    def encoder_layer(self, layer: int | None) -> int:
        """The number of an encoder layer: the last by default; a UserError if there is no such one."""
        if not self.num_encoder_layers:
            raise UserError('the transformer has no encoder layers')
        return _number('encoder layer', self.num_encoder_layers if layer is None else layer, self.num_encoder_layers)

    def head(self, head: int) -> int:
        """The number of a head of encoder and decoder; a UserError if there is no such one."""
        return _number('head', head, self.num_heads)

    def cell_at(self, x: float, y: float) -> int:
        """Index of the cell at a point in pixels of the image; a UserError if it is outside."""
        height, width = self.size
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f'the point {x:g},{y:g} is outside the image of {width} x {height} pixels')
        return self.cells.at(x, y)

    def require_detections(self) -> None:
        """Raise a UserError if there are none."""
        if not len(self.queries):
            best = self.layers[-1].scores.max()
            raise UserError(f'nothing is detected: the best score is {best:.4g}, the threshold {self.score_thr:g}')

    def _require_query(self, query: int) -> None:
        if not 0 <= query < len(self.layers[-1]):
            raise UserError(f'there is no query {query}: they are 0 to {len(self.layers[-1]) - 1}')

    def _map(self, name: str, row: int, head: int | None, size: Size | None) -> np.ndarray:
        weights = self.weights.rows(name, [row])[0, :, 0].float().cpu().numpy()  # (heads, S)
        return self.cells.at_pixels(weights.mean(0) if head is None else weights[self.head(head) - 1], size)


def attend(detector: Detector, image: ImageLike, score_thr: float = 0.5) -> ImageAttention:
    """Run a detector on an image, and keep what its transformer looks at.

    Args:
        detector: with a :class:`DETRHead` that predicts, and a :class:`TransformerNeck`; :func:`mmdet_detr.load` makes
            one.
        image: as the detector takes it.
        score_thr: queries with at least this score are ``queries``.

    Raises:
        ConfigError: it is another detector.
        UnreadableImageError: the image cannot be read.
    """
    head, transformer = parts_of(detector.model)
    pixels = detector.read(image)
    with attention_weights(transformer) as weights, transformer_outputs(transformer) as passes:
        found = detector(pixels, score_thr)
    samples, output = passes[-1]
    size = pixels.shape[:2]
    scores, labels, boxes = (values[:, 0].cpu().numpy() for values in predictions(head, output.hidden))
    in_pixels = corners(boxes) * np.array(size[::-1] * 2, dtype=np.float32)
    layers = [Result(*values, detector.classes) for values in zip(in_pixels, scores, labels, strict=True)]
    order = np.argsort(-scores[-1], kind='stable')
    mask_head = next((module for module in detector.model.modules() if isinstance(module, MaskHead)), None)
    return ImageAttention(
        image=pixels,
        layers=layers,
        queries=order[scores[-1][order] >= score_thr],
        score_thr=score_thr,
        found=found,
        num_heads=next(part for part in transformer.modules() if isinstance(part, Attention)).num_heads,
        num_encoder_layers=len(transformer.encoder.layers),
        num_mask_heads=mask_head.bbox_attention.num_heads if mask_head else 0,
        cells=CellMap(output.grid_sizes, tuple(samples[0].batch_input_shape), tuple(samples[0].img_shape[:2]), size),
        weights=weights,
        mask_attention=mask_head and partial(_mask_attention, mask_head, output),
    )


def parts_of(model: nn.Module) -> tuple[DETRHead, TransformerNeck]:
    """The head by which a detector predicts, and the transformer that it reads.

    Raises:
        ConfigError: there are no such parts.
    """
    if isinstance(model, AuxiliaryHeadDetector):
        return parts_of(getattr(model, model.predict_by))
    heads = [module for module in model.modules() if isinstance(module, DETRHead)]
    transformers = [module for module in model.modules() if isinstance(module, TransformerNeck)]
    if heads and transformers:
        return heads[0], transformers[0] if heads[0].transformer is None else heads[0].transformer
    missing = 'mmdet_detr.TransformerNeck' if heads else 'mmdet_detr.DETRHead'
    raise ConfigError(f'{type(model).__name__} has no {missing}: only its attention can be drawn')


@contextmanager
def transformer_outputs(transformer: nn.Module) -> Iterator[list[tuple[list[Any], TransformerOutput]]]:
    """Collect the data samples and the output of every pass of a transformer."""
    passes: list[tuple[list[Any], TransformerOutput]] = []
    handle = transformer.register_forward_hook(lambda _, inputs, output: passes.append((inputs[1], output)))
    try:
        yield passes
    finally:
        handle.remove()


@torch.no_grad()
def predictions(head: DETRHead, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (...), labels (...) and boxes (..., 4) of queries with hidden states (..., C), float32.

    Boxes are cxcywh in units of the image, labels the classes with the best score.
    """
    logits = head.class_embed(hidden).float()
    probabilities = logits.sigmoid() if head.match_loss.use_sigmoid else logits.softmax(-1)[..., :-1]
    return *probabilities.max(-1), head.bbox_embed(hidden).float().sigmoid()


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) cxcywh in units of the image as xyxy, cut at its borders."""
    centres, sizes = boxes[..., :2], boxes[..., 2:]
    return np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=-1).clip(0, 1)


@torch.no_grad()
def _mask_attention(head: MaskHead, output: TransformerOutput, query: int) -> Tensor:
    """The attention maps (heads, S) of a query."""
    return head.bbox_attention(output.hidden[-1, :, query], head.bbox_attention.keys(output.memory), output.mask)[0]


def _number(what: str, number: int, count: int) -> int:
    if not 1 <= number <= count:
        raise UserError(f'there is no {what} {number}: they are 1 to {count}')
    return number
