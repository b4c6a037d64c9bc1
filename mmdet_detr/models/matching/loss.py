"""The set prediction loss (paper section 3.1, official ``models/detr.py``), all decoder layers in one pass."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.utils import ConfigType, reduce_mean
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...log import warn
from ...registry import MODELS
from ..loss_gradients import Gradient, box_loss, class_loss, iou_loss
from ..precision import at_least_float32
from .assignment import Solution
from .costs import OVERLAP_EPS
from .targets import Targets, upload

ASSIGNER = {'type': 'mmdet_detr.HungarianAssigner'}
LOSS_CLS = {'type': 'CrossEntropyLoss', 'loss_weight': 1.0}
LOSS_BBOX = {'type': 'L1Loss', 'loss_weight': 5.0}
LOSS_IOU = {'type': 'GIoULoss', 'eps': OVERLAP_EPS, 'loss_weight': 2.0}

MAX_WARNINGS = 20  # images with bad annotations that are warned of one by one


@MODELS.register_module()
class BipartiteMatchLoss(nn.Module):
    """Matches predictions and objects, then scores class and box of all decoder layers at once.

    Classification is averaged by the sum of the queries' weights, the box losses by the number of objects, which is
    averaged over ranks and at least 1. Everything is computed in float32 (float64 for float64 input), under autocast
    as well.

    Args:
        assigner: a :class:`HungarianAssigner`.
        loss_cls: a loss on logits (N, K+1) and integer labels (N,) with mmdet's ``weight`` and
            ``reduction_override``, as ``CrossEntropyLoss``; one with ``use_sigmoid``, as ``FocalLoss``, gets logits
            (N, K) without an output for no object. Losses on soft targets (quality, varifocal, Gaussian) do not fit.
        loss_bbox: a loss on normalised cxcywh boxes (N, 4), as ``L1Loss`` or ``SmoothL1Loss``.
        loss_iou: a loss on normalised xyxy boxes (N, 4), as any of mmdet's IoU losses.
        no_object_weight: weight of queries without object in a softmax classification loss.
        min_total_weight: what the classification loss is divided by at least. mmdet's heads divide by at least 1.
        on_bad_annotation: 'drop' leaves annotations out that cannot be learnt (see :func:`targets_of`), with a
            warning for each image; 'raise' stops.
        sync_cls_avg_factor: whether the classification's sum of weights is averaged over ranks too, as mmdet calls it.
            Several ranks then have the gradients of one process with all images; the official code has not.
    """

    def __init__(
        self,
        assigner: ConfigType = ASSIGNER,
        loss_cls: ConfigType = LOSS_CLS,
        loss_bbox: ConfigType = LOSS_BBOX,
        loss_iou: ConfigType = LOSS_IOU,
        no_object_weight: float = 0.1,
        min_total_weight: float = 1e-6,
        on_bad_annotation: str = 'drop',
        sync_cls_avg_factor: bool = False,
    ) -> None:
        super().__init__()
        if on_bad_annotation not in ('drop', 'raise'):
            raise ValueError(f"on_bad_annotation is 'drop' or 'raise', got {on_bad_annotation!r}")
        self.assigner = MMDET_TASK_UTILS.build(assigner)
        self.loss_cls = MMDET_MODELS.build(loss_cls)
        self.loss_bbox = MMDET_MODELS.build(loss_bbox)
        self.loss_iou = MMDET_MODELS.build(loss_iou)
        self.no_object_weight = no_object_weight
        self.min_total_weight = min_total_weight
        self.on_bad_annotation = on_bad_annotation
        self.sync_cls_avg_factor = sync_cls_avg_factor
        self.use_sigmoid: bool = getattr(self.loss_cls, 'use_sigmoid', False)
        self.objects_per_image: Counter[int] = Counter()  # seen in training
        self.dropped: Counter[str] = Counter()  # annotations left out, by image
        self.crowded: Counter[str] = Counter()  # images that had more objects than queries
        self._warned_of: set[str] = set()  # images with bad annotations
        self._warned_of_crowds = False

    def forward(self, logits: Tensor, boxes: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Losses of every decoder layer.

        Args:
            logits: (L, B, Q, K+1), or (L, B, Q, K) with a sigmoid loss.
            boxes: (L, B, Q, 4), normalised cxcywh.
            targets: objects of the batch.

        Returns:
            Weighted scalars ``loss_cls``, ``loss_bbox``, ``loss_iou`` of the last layer and ``d0.loss_cls`` to
            ``d{L-2}.loss_iou`` of the others. Each of them depends on the predictions, also without any object.
            Beside them, without gradient, what :func:`statistics_of` tells of the last layer.
        """
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        with torch.no_grad(), torch.autocast(boxes.device.type, enabled=False):
            matches = self.assigner.match(logits, boxes, targets)
            self._heed(matches, targets, num_queries=boxes.shape[2])
            num_boxes = reduce_mean(targets.valid.sum().to(boxes.dtype)).clamp(min=1)
            class_losses, class_gradient = self._classification(logits, targets, matches, num_boxes)
            box_losses, box_gradients = self._boxes(boxes, targets, matches, num_boxes)
            statistics = statistics_of(logits[-1], boxes[-1], targets, matches, self.use_sigmoid)
        scalars = _WithGradient.apply(
            logits, boxes, class_losses, box_losses, class_gradient, box_gradients, matches.queries
        ).unbind()
        num_layers = len(boxes)
        last = num_layers - 1
        named = {
            name if layer == last else f'd{layer}.{name}': scalars[kind * num_layers + layer]
            for layer in [last, *range(last)]
            for kind, name in enumerate(('loss_cls', 'loss_bbox', 'loss_iou'))
        }
        return named | statistics

    def _classification(
        self, logits: Tensor, targets: Targets, matches: Solution, num_boxes: Tensor
    ) -> tuple[Tensor, Gradient]:
        """Classification loss (L,) over all queries, and its gradient for upstream gradients (L,)."""
        num_layers, batch_size, num_queries, num_outputs = logits.shape
        labels = targets.labels.new_full(
            (num_layers * batch_size * num_queries,), num_outputs if self.use_sigmoid else num_outputs - 1
        )
        labels[matches.queries] = targets.labels.flatten()[matches.targets]
        weights, total_weight = None, num_boxes.expand(num_layers)
        if not self.use_sigmoid:
            weights = logits.new_full(labels.shape, self.no_object_weight)
            weights[matches.queries] = 1.0
            by_class, class_weight = weights, getattr(self.loss_cls, 'class_weight', None)
            if class_weight is not None:
                by_class = weights * upload(torch.as_tensor(class_weight, dtype=logits.dtype), logits.device)[labels]
            total_weight = by_class.view(num_layers, -1).sum(1)
            if self.sync_cls_avg_factor:
                total_weight = reduce_mean(total_weight)
            total_weight = total_weight.clamp(min=self.min_total_weight)
        losses, gradient = class_loss(self.loss_cls, logits.flatten(0, 2), labels, weights)

        def gradient_by_layer(logits: Tensor, upstream: Tensor) -> Tensor:
            by_query = (upstream / total_weight)[:, None].expand(-1, batch_size * num_queries).flatten()
            return gradient(logits.flatten(0, 2), by_query).view_as(logits)

        return losses.view(num_layers, -1).sum(1) / total_weight, gradient_by_layer

    def _boxes(self, boxes: Tensor, targets: Targets, matches: Solution, num_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """L1 and IoU losses (2, L) over the matched pairs, and their gradients (2, L, M, 4)."""
        num_layers = len(boxes)
        if not len(matches.queries):
            return boxes.new_zeros(2, num_layers), boxes.new_zeros(2, num_layers, 0, 4)
        matched = boxes.flatten(0, 2)[matches.queries]
        wanted = targets.boxes.to(boxes.dtype).flatten(0, 1)[matches.targets]
        pairs = box_loss(self.loss_bbox, matched, wanted), iou_loss(self.loss_iou, matched, wanted)
        losses, gradients = (torch.stack(parts).div_(num_boxes) for parts in zip(*pairs, strict=True))
        return losses.view(2, num_layers, -1).sum(2), gradients.view(2, num_layers, -1, 4)

    def _heed(self, matches: Solution, targets: Targets, num_queries: int) -> None:
        """Say what is wrong with the annotations, as far as the host knows already."""
        counts = matches.valid.sum(1).tolist()
        self.objects_per_image.update(counts)
        for image, (num_valid, given) in enumerate(zip(counts, targets.given, strict=True)):
            num_annotated = len(given.labels)
            if num_valid < num_annotated:
                self._drop(targets, image, np.flatnonzero(~matches.valid[image, :num_annotated]))
            if num_valid > num_queries:
                self._crowd(targets.images[image], num_valid, num_queries)

    def _crowd(self, name: str, num_objects: int, num_queries: int) -> None:
        self.crowded[name] += 1
        if not self._warned_of_crowds:
            self._warned_of_crowds = True
            warn(
                f'{name} has {num_objects} objects, but the model only {num_queries} queries: the cheapest '
                f'{num_queries} are matched, the others are ignored. {queries_advice(self.objects_per_image)} '
                '(Said once.)'
            )

    def _drop(self, targets: Targets, image: int, indices: np.ndarray) -> None:
        """Warn of annotations that are left out, or raise a ValueError."""
        name, given = targets.images[image], targets.given[image]
        self.dropped[name] += len(indices)
        if self.on_bad_annotation == 'drop' and (name in self._warned_of or len(self._warned_of) >= MAX_WARNINGS):
            return
        first = int(indices[0])
        message = (
            f'{name}: annotations {indices.tolist()} cannot be learnt. The first has the box '
            f"{given.bboxes[first].tolist()} (x1, y1, x2, y2 in the network's input) and the label "
            f'{int(given.labels[first])}; it needs finite corners, an area, a part inside the image, and a label in '
            'range.'
        )
        if self.on_bad_annotation == 'raise':
            raise ValueError(message)
        self._warned_of.add(name)
        warn(f'{message} Left out.')


class _WithGradient(torch.autograd.Function):
    """Joins losses to the graph by gradients that are known already."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        boxes: Tensor,
        class_losses: Tensor,
        box_losses: Tensor,
        class_gradient: Gradient,
        box_gradients: Tensor,
        queries: Tensor,
    ) -> Tensor:
        """Losses (3*L,) of class, box and IoU: (L,) + (2, L), for (L, B, Q, K') and (2, L, M, 4)."""
        losses = torch.cat((class_losses, box_losses.flatten()))
        ctx.save_for_backward(logits, box_gradients, queries, losses)
        ctx.class_gradient, ctx.boxes_shape = class_gradient, boxes.shape
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, box_gradients, queries, losses = ctx.saved_tensors
        # an infinite loss can have a finite gradient: NaN tells whoever looks at the gradients
        upstream = (upstream + (losses - losses)).view(3, -1)
        for_boxes = box_gradients.new_zeros(ctx.boxes_shape)
        by_pair = (box_gradients * upstream[1:, :, None, None]).sum(0)
        for_boxes.view(-1, 4)[queries] = by_pair.flatten(0, 1).to(for_boxes.dtype)
        return ctx.class_gradient(logits, upstream[0]), for_boxes, None, None, None, None, None


def statistics_of(
    logits: Tensor, boxes: Tensor, targets: Targets, matches: Solution, use_sigmoid: bool
) -> dict[str, Tensor]:
    """What the log shows of the last decoder layer beside the losses; scalars.

    Args:
        logits: (B, Q, K+1), or (B, Q, K) with a sigmoid loss.
        boxes: (B, Q, 4).
        targets: objects of the batch.
        matches: of all layers.
        use_sigmoid: whether the logits lack the output for no object.

    Returns:
        ``class_error``: percentage of matched queries whose likeliest class is not their object's (official
        ``models/detr.py``); ``cardinality_error``: mean difference of the number of queries that predict an object
        and that of objects (there, too); ``matched_queries`` an image; with several queries ``query_spread``: standard
        deviation of a box's coordinates over them, in units of the image.
    """
    if use_sigmoid:
        best_object = best = logits.amax(-1)
        num_predicted = (best_object > 0).sum(1)
    else:
        best_object, no_object = logits[..., :-1].amax(-1), logits[..., -1]
        best = torch.maximum(best_object, no_object)
        num_predicted = (best_object > no_object).sum(1)
    first = len(matches.queries) // len(matches.non_finite) * (len(matches.non_finite) - 1)  # pair of the last layer
    queries, labels = matches.queries[first:] % best.numel(), targets.labels.flatten()[matches.targets[first:]]
    hit = logits.flatten(0, 1)[queries, labels] >= best.flatten()[queries]  # False for NaN
    statistics = {
        'class_error': 100 * (~hit).sum() / max(1, len(queries)),
        'cardinality_error': (num_predicted - targets.valid.sum(1)).abs().float().mean(),
        'matched_queries': boxes.new_full((), len(queries) / len(logits)),
    }
    if boxes.shape[1] > 1:
        statistics['query_spread'] = boxes.std(1, unbiased=False).mean()
    return statistics


def queries_advice(objects_per_image: Counter[int]) -> str:
    """The histogram of objects an image in words, and what it means for ``num_queries``."""
    counts = sorted(objects_per_image)
    up_to = np.cumsum([objects_per_image[count] for count in counts])
    half, most, nearly_all = (counts[np.searchsorted(up_to, share * up_to[-1])] for share in (0.5, 0.95, 0.99))
    return (
        f'Objects an image, over {up_to[-1]} looked at so far: median {half}, 95th percentile {most}, 99th '
        f'{nearly_all}, most {counts[-1]}. Set num_queries well above that; COCO has up to 63, and DETR takes 100.'
    )
