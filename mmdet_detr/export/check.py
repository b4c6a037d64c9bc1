"""Compare what a file computes with the model that it was made of."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

from .deployable import Deployable
from .formats import Compute, Shape

SIZES = ((128, 160), (149, 203))  # (height, width) of the batches where they are free; none that is traced
BOX_LIMIT = 0.01  # pixels
MASK_LIMIT = 1e-3  # logits


def batches(module: Deployable, shape: Shape) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and sizes: a single image, a batch without padding, and a padded one; smooth noise."""
    generator = torch.Generator().manual_seed(0)
    for count, padded, (height, width) in ((1, False, SIZES[0]), (2, False, SIZES[0]), (3, True, SIZES[1])):
        count, height, width = shape.batch or count, shape.height or height, shape.width or width
        coarse = 255 * torch.rand(count, 3, height // 16 + 1, width // 16 + 1, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, (height, width), mode='bicubic').round().clamp(0, 255)
        sizes = torch.tensor([[height, width]] * count)
        if padded:
            sizes -= torch.arange(1, count + 1)[:, None] * sizes // (count + 2)
        for image, (h, w) in zip(pixels, sizes.tolist(), strict=True):
            image[:, h:] = image[:, :, w:] = 0
        if module.uint8:
            yield pixels.byte(), sizes
            continue
        images = (pixels - module.mean.float()) / module.std.float()
        for image, (h, w) in zip(images, sizes.tolist(), strict=True):
            image[:, h:] = image[:, :, w:] = 0
        yield images, sizes


def differences(module: Deployable, compute: Compute, shape: Shape, tolerance: float) -> dict[str, float]:
    """The largest differences between a file and the module in all batches.

    A detection is compared with those queries of the module that could have made it: whose score for its label is the
    same within ``tolerance`` and, within ``tolerance``, the best of the query. So detections with equal scores may
    change places.

    Returns:
        ``logits`` or ``scores``, ``boxes`` in pixels, and ``masks`` in logits; infinite where shapes differ or a
        detection has no such query.
    """
    raw = copy.copy(module)
    raw.raw = True
    names = ['logits' if module.raw else 'scores', 'boxes', *[name for name in module.outputs if name == 'masks']]
    largest = dict.fromkeys(names, 0.0)
    for images, sizes in batches(module, shape):
        outputs = [torch.from_numpy(output) for output in compute(images.numpy(), sizes.numpy())]
        with torch.no_grad():
            given = images if module.uint8 else images.to(module.mean.dtype)
            expected = tuple(x.float() if x.is_floating_point() else x for x in raw(given, sizes))
            count = 0 if module.raw else module(given, sizes)[1].shape[1]
        unit = sizes.flip(1).repeat(1, 2)[:, None].float()
        if module.raw:
            parts = [
                (name, _largest(output * unit, other * unit) if name == 'boxes' else _largest(output, other))
                for name, output, other in zip(module.outputs, outputs, expected, strict=True)
            ]
        else:
            parts = list(_of_detections(module, outputs, expected, unit, count, tolerance))
        for name, value in parts:
            largest[name] = max(largest[name], math.inf if math.isnan(value) else value)
    return largest


def above_rounding(module: Deployable, compute: Compute, shape: Shape, limit: float) -> dict[str, float]:
    """Those :func:`differences` to the model in float64 that are above the limit and twice the module's own."""
    exact = copy.deepcopy(module).double()

    def own(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [x.numpy() for x in module(torch.from_numpy(images), torch.from_numpy(sizes))]

    of_module = differences(exact, own, shape, 1.0)
    tolerance = max(limit, 3 * of_module.get('scores', 0.0))  # to find the queries of detections by
    of_file, of_module = (differences(exact, one, shape, tolerance) for one in (compute, own))
    return {
        name: value
        for name, value in of_file.items()
        if not (math.isfinite(value) and value <= max(2 * of_module[name], _limits(limit)[name]))
    }


def _largest(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or not torch.isfinite(a).all():
        return math.inf
    return float((a - b).abs().max())


def _of_detections(
    module: Deployable, outputs: list[Tensor], expected: tuple[Tensor, ...], unit: Tensor, count: int, tolerance: float
) -> Iterator[tuple[str, float]]:
    boxes, scores, labels, *of_masks = outputs
    logits, own_boxes, *own_masks = expected
    if module.model.bbox_head.match_loss.use_sigmoid:
        own = logits.sigmoid()
        best = own
    else:
        own = logits.softmax(-1)[..., :-1]
        best = own.max(-1, keepdim=True).values
    possible_labels = (labels >= 0) & (labels < own.shape[-1])
    if scores.shape != (len(logits), count) or not torch.isfinite(scores).all() or not possible_labels.all():
        yield 'scores', math.inf
        return
    ranked = best.flatten(1).sort(descending=True).values[:, :count]
    yield 'scores', _largest(scores, ranked)
    own_boxes = (bbox_cxcywh_to_xyxy(own_boxes) * unit).clamp(min=0).minimum(unit)
    for image in range(len(boxes)):
        of_label = own[image][:, labels[image]].T  # (detections, queries)
        possible = (of_label - scores[image][:, None]).abs() <= tolerance
        possible &= of_label >= best[image].expand_as(own[image])[:, labels[image]].T - tolerance
        distance = (boxes[image][:, None] - own_boxes[image]).abs().amax(-1).masked_fill(~possible, math.inf)
        yield 'boxes', float(distance.min(1).values.max())
        if of_masks:
            masks = of_masks[1][image]
            queries = distance.argmin(1)[: len(masks)]
            yield 'masks', _largest(masks, own_masks[0][image][queries])


def above_limits(found: dict[str, float], limit: float) -> list[str]:
    """What is above its limit, in words; ``limit`` is that of logits and scores."""
    limits = _limits(limit)
    return [f'{name} {found[name]:.2g} (limit {limits[name]:g})' for name in found if not found[name] <= limits[name]]


def _limits(limit: float) -> dict[str, float]:
    return {'logits': limit, 'scores': limit, 'boxes': BOX_LIMIT, 'masks': MASK_LIMIT}


def as_text(found: dict[str, float]) -> str:
    """Differences in a line."""
    return ', '.join(f'{name} {value:.2g}{" px" if name == "boxes" else ""}' for name, value in found.items())
