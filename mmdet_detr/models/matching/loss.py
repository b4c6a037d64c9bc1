"""Compute the set prediction loss of all decoder layers at once (paper section 3.1, official ``models/detr.py``)."""

from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.losses import FocalLoss, GaussianFocalLoss, GIoULoss, QualityFocalLoss, VarifocalLoss
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmdet.utils import ConfigType, reduce_mean
from torch import Tensor, nn

from ...errors import ConfigError
from ...log import warn
from ...registry import MODELS
from ..precision import at_least_float32
from .assignment import Solution
from .costs import OVERLAP_EPS, iou_of
from .targets import Targets, upload

ASSIGNER = {'type': 'mmdet_detr.HungarianAssigner'}
LOSS_CLS = {'type': 'CrossEntropyLoss', 'loss_weight': 1.0}
LOSS_BBOX = {'type': 'L1Loss', 'loss_weight': 5.0}
LOSS_IOU = {'type': 'GIoULoss', 'eps': OVERLAP_EPS, 'loss_weight': 2.0}
SOFT_TARGETS = (GaussianFocalLoss, QualityFocalLoss, VarifocalLoss)

LOSS_NAMES = ('loss_cls', 'loss_bbox', 'loss_iou')
MAX_WARNINGS = 20  # images with bad annotations that get a warning of their own


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
        min_total_weight: least divisor of the classification loss. mmdet's heads divide by at least 1.
        on_bad_annotation: 'drop' leaves annotations out that cannot be learnt (see :func:`targets_of`), with a
            warning for each image; 'raise' stops.
        sync_cls_avg_factor: whether the sum of the classification's weights is averaged over ranks too (the name is
            mmdet's). Several ranks then have the gradients of one process with all images; the official code has not.

    Raises:
        ConfigError: ``loss_cls`` needs soft targets.
        ValueError: ``on_bad_annotation`` is neither 'drop' nor 'raise'; or, from training, it is 'raise' and an
            annotation cannot be learnt.
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
        if isinstance(self.loss_cls, SOFT_TARGETS):
            raise ConfigError(
                f'loss_cls of BipartiteMatchLoss takes class labels, and {type(self.loss_cls).__name__} needs soft '
                'targets: use CrossEntropyLoss or FocalLoss'
            )
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
            ``d{L-2}.loss_iou`` of the others. Each of them depends on the predictions, even without any object.
            Beside them, without gradient, the statistics of the last layer (:func:`statistics_of`).
        """
        return self.loss_and_matches(logits, boxes, targets)[0]

    def loss_and_matches(self, logits: Tensor, boxes: Tensor, targets: Targets) -> tuple[dict[str, Tensor], Solution]:
        """The losses of :meth:`forward`, and the matches of all layers."""
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        with torch.autocast(boxes.device.type, enabled=False):
            losses, matches = self.matched(logits, boxes, targets)
            self._report_annotations(matches, targets, num_queries=boxes.shape[2])
            statistics = statistics_of(logits[-1], boxes[-1], targets, matches, self.use_sigmoid)
        num_layers = len(boxes)
        scalars = losses.flatten().unbind()
        last = num_layers - 1
        named = {
            name if layer == last else f'd{layer}.{name}': scalars[kind * num_layers + layer]
            for layer in [last, *range(last)]
            for kind, name in enumerate(LOSS_NAMES)
        }
        return named | statistics, matches

    def matched(self, logits: Tensor, boxes: Tensor, targets: Targets) -> tuple[Tensor, Solution]:
        """Match predictions and objects, and score them; arguments as in :meth:`forward`.

        Returns:
            Weighted losses (3, L) of class, box and IoU, and the matches.
        """
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        with torch.autocast(boxes.device.type, enabled=False):
            matches = self.assigner.match(logits, boxes, targets)
            num_boxes = reduce_mean(targets.valid.sum().to(boxes.dtype)).clamp(min=1)
            labels = targets.labels.new_full((logits[..., 0].numel(),), self._no_object(logits))
            labels[matches.queries] = targets.labels.flatten()[matches.targets]
            weights = None
            if not self.use_sigmoid:
                weights = logits.new_full(labels.shape, self.no_object_weight)
                weights[matches.queries] = 1.0
            of_classes = self._classification(logits, labels, weights, num_boxes)
            if len(matches.queries):
                goal = targets.boxes.to(boxes.dtype).flatten(0, 1)[matches.targets]
                pairs = self._of_pairs(boxes.flatten(0, 2).index_select(0, matches.queries), goal)
                of_boxes = pairs.view(2, len(boxes), -1).sum(2) / num_boxes
            else:  # Zeros that stay in the graph, so that every parameter gets a gradient.
                of_boxes = boxes.flatten(1)[:, :0].sum(1).expand(2, -1)
            return _marked(torch.cat((of_classes[None], of_boxes))), matches

    def assigned(self, logits: Tensor, boxes: Tensor, labels: Tensor, goal: Tensor, ignored: Tensor) -> Tensor:
        """Score predictions whose objects are known.

        The terms are those of :meth:`matched`, with the number of predictions that have an object in place of the
        number of objects.

        Args:
            logits: (L, B, N, K+1), or (L, B, N, K) with a sigmoid loss.
            boxes: (L, B, N, 4), normalised cxcywh.
            labels: (B, N), K for no object.
            goal: boxes of the objects (B, N, 4), normalised cxcywh; any finite values where there is none.
            ignored: bool (B, N), True on predictions that are not scored.

        Returns:
            Weighted losses (3, L) of class, box and IoU.
        """
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        with torch.autocast(boxes.device.type, enabled=False):
            num_layers = len(boxes)
            positive = (labels < self._no_object(logits)) & ~ignored
            num_boxes = reduce_mean(positive.sum().to(boxes.dtype)).clamp(min=1)
            no_object_weight = 1.0 if self.use_sigmoid else self.no_object_weight
            weights = torch.where(positive, 1.0, no_object_weight).to(boxes.dtype).masked_fill(ignored, 0)
            of_classes = self._classification(
                logits, labels.repeat(num_layers, 1, 1).flatten(), weights.repeat(num_layers, 1, 1).flatten(), num_boxes
            )
            # Every prediction is compared with a box, because to pick those with an object would wait for the device.
            goal = torch.where(positive[..., None], goal.to(boxes.dtype), 0.5).expand_as(boxes)
            pairs = self._of_pairs(boxes.flatten(0, 2), goal.flatten(0, 2)).view(2, num_layers, -1)
            of_boxes = (pairs * positive.flatten()).sum(2) / num_boxes
            return _marked(torch.cat((of_classes[None], of_boxes)))

    def _no_object(self, logits: Tensor) -> int:
        """The label K of no object."""
        return logits.shape[-1] - (not self.use_sigmoid)

    def _classification(self, logits: Tensor, labels: Tensor, weights: Tensor | None, num_boxes: Tensor) -> Tensor:
        """Classification loss (L,) of logits (L, B, N, K+1), with labels and weights (L*B*N,)."""
        num_layers = len(logits)
        total_weight = num_boxes
        if not self.use_sigmoid:
            by_class, class_weight = weights, getattr(self.loss_cls, 'class_weight', None)
            assert by_class is not None
            if class_weight is not None:
                by_class = by_class * upload(torch.as_tensor(class_weight, dtype=logits.dtype), logits.device)[labels]
            total_weight = by_class.view(num_layers, -1).sum(1)
            if self.sync_cls_avg_factor:
                total_weight = reduce_mean(total_weight)
            total_weight = total_weight.clamp(min=self.min_total_weight)
        if type(self.loss_cls) is FocalLoss and not self.loss_cls.activated:
            losses = focal_loss(self.loss_cls, logits.flatten(0, 2), labels)
            losses = losses if weights is None else losses * weights
        else:
            losses = self.loss_cls(logits.flatten(0, 2), labels, weights, reduction_override='none')
        return losses.view(num_layers, -1).sum(1) / total_weight

    def _of_pairs(self, boxes: Tensor, goal: Tensor) -> Tensor:
        """L1 and IoU losses of N pairs of boxes (N, 4), summed over the coordinates: (2, N)."""
        l1 = self.loss_bbox(boxes, goal, reduction_override='none').sum(1)
        if type(self.loss_iou) is GIoULoss:
            giou = iou_of(boxes.t(), goal.t(), generalised=True, eps=self.loss_iou.eps)
            iou = self.loss_iou.loss_weight * (1 - giou)
        else:
            iou = self.loss_iou(bbox_cxcywh_to_xyxy(boxes), bbox_cxcywh_to_xyxy(goal), reduction_override='none')
        return torch.stack((l1, iou))

    def _report_annotations(self, matches: Solution, targets: Targets, num_queries: int) -> None:
        """Count objects and say what is wrong with the annotations, from what the matching copied to the host."""
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
                f'{name} has {num_objects} objects, but the model only {num_queries} queries: the {num_queries} that '
                f'cost least are matched, the others are ignored. {queries_advice(self.objects_per_image)} '
                '(Logged once.)'
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


def _marked(losses: Tensor) -> Tensor:
    """Let an infinite loss, whose gradient can be finite, have a gradient of NaN: the step must be skipped."""
    if losses.requires_grad:
        unusable = losses.detach() * 0
        losses.register_hook(lambda gradient: gradient + unusable)
    return losses


def focal_loss(loss: FocalLoss, logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid focal loss (arXiv 1708.02002); mmdet's own needs a compiled operator on a GPU.

    Args:
        loss: has the settings ``alpha``, ``gamma`` and ``loss_weight``.
        logits: (N, K).
        labels: (N,), K for no object.

    Returns:
        Losses (N,), summed over the classes.
    """

    def absent(x: Tensor) -> Tensor:
        """-p^gamma log(1 - p) for p = sigmoid(x), the loss where an output is not the object's class."""
        return F.softplus(x) * x.sigmoid() ** loss.gamma

    num_classes = logits.shape[1]
    of_label = logits.gather(1, labels.clamp(max=num_classes - 1)[:, None]).squeeze(1)
    correction = loss.alpha * absent(-of_label) - (1 - loss.alpha) * absent(of_label)
    return loss.loss_weight * (
        (1 - loss.alpha) * absent(logits).sum(1) + torch.where(labels < num_classes, correction, 0.0)
    )


@torch.no_grad()
def statistics_of(
    logits: Tensor, boxes: Tensor, targets: Targets, matches: Solution, use_sigmoid: bool
) -> dict[str, Tensor]:
    """Scalars of the last decoder layer for the log.

    Args:
        logits: (B, Q, K+1), or (B, Q, K) with a sigmoid loss.
        boxes: (B, Q, 4).
        targets: objects of the batch.
        matches: of all layers.
        use_sigmoid: whether the logits lack the output for no object.

    Returns:
        ``class_error``: percentage of matched queries whose most likely class is not their object's;
        ``cardinality_error``: mean difference between the number of queries that predict an object and the number of
        objects (both as in the official ``models/detr.py``); ``matched_queries`` an image; with several queries also
        ``query_spread``: standard deviation of a box's coordinates over the queries, in units of the image.
    """
    score, likeliest = logits.max(-1)
    num_predicted = (score > 0 if use_sigmoid else likeliest < logits.shape[-1] - 1).sum(1)
    num_layers = len(matches.non_finite)
    first = len(matches.queries) // num_layers * (num_layers - 1)  # pair of the last layer
    queries, labels = matches.queries[first:] % likeliest.numel(), targets.labels.flatten()[matches.targets[first:]]
    statistics = {
        'class_error': 100 * (likeliest.flatten()[queries] != labels).sum() / max(1, len(queries)),
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
