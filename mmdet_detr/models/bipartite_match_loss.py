"""The set prediction loss (paper section 3.1, official ``models/detr.py``), all decoder layers in one pass."""

import logging

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet.utils import ConfigType, reduce_mean
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..registry import MODELS
from .hungarian_assigner import OVERLAP_EPS, Matches, Targets
from .precision import at_least_float32

ASSIGNER = {'type': 'mmdet_detr.HungarianAssigner'}
LOSS_CLS = {'type': 'CrossEntropyLoss', 'loss_weight': 1.0}
LOSS_BBOX = {'type': 'L1Loss', 'loss_weight': 5.0}
LOSS_IOU = {'type': 'GIoULoss', 'eps': OVERLAP_EPS, 'loss_weight': 2.0}


def targets_of(batch_data_samples: SampleList) -> Targets:
    """Collect the objects of a batch; the one place where pixels become units of the image.

    Args:
        batch_data_samples: samples with ``img_shape`` (h, w) and ``gt_instances``: ``bboxes`` (T, 4) xyxy in pixels
            and ``labels`` (T,).
    """
    labels, boxes = [], []
    for sample in batch_data_samples:
        gt_boxes = at_least_float32(sample.gt_instances.bboxes)
        height, width = sample.img_shape[:2]
        corners = torch.stack((gt_boxes[:, 0::2] / width, gt_boxes[:, 1::2] / height), dim=2)  # (T, 2 corners, xy)
        boxes.append(bbox_xyxy_to_cxcywh(corners.flatten(1)))
        labels.append(sample.gt_instances.labels.long())
    return Targets(
        pad_sequence(labels, batch_first=True), pad_sequence(boxes, batch_first=True), [len(label) for label in labels]
    )


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
    """

    def __init__(
        self,
        assigner: ConfigType = ASSIGNER,
        loss_cls: ConfigType = LOSS_CLS,
        loss_bbox: ConfigType = LOSS_BBOX,
        loss_iou: ConfigType = LOSS_IOU,
        no_object_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.assigner = MMDET_TASK_UTILS.build(assigner)
        self.loss_cls = MMDET_MODELS.build(loss_cls)
        self.loss_bbox = MMDET_MODELS.build(loss_bbox)
        self.loss_iou = MMDET_MODELS.build(loss_iou)
        self.no_object_weight = no_object_weight
        self.use_sigmoid: bool = getattr(self.loss_cls, 'use_sigmoid', False)
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
        """
        self._warn_of_crowds(targets.counts, num_queries=boxes.shape[2])
        with torch.autocast(boxes.device.type, enabled=False):
            logits, boxes = at_least_float32(logits), at_least_float32(boxes)
            matches = self.assigner.match(logits, boxes, targets)
            num_boxes = reduce_mean(boxes.new_full((1,), float(sum(targets.counts)))).clamp(min=1)
            loss_cls = self._classification(logits, targets, matches, num_boxes)
            loss_bbox, loss_iou = self._boxes(boxes, targets, matches, num_boxes)
        layers = {'loss_cls': loss_cls.unbind(), 'loss_bbox': loss_bbox.unbind(), 'loss_iou': loss_iou.unbind()}
        last = len(boxes) - 1
        return {
            name if layer == last else f'd{layer}.{name}': loss[layer]
            for layer in [last, *range(last)]
            for name, loss in layers.items()
        }

    def _classification(self, logits: Tensor, targets: Targets, matches: Matches, num_boxes: Tensor) -> Tensor:
        """Classification loss (L,) over all queries."""
        num_layers, batch_size, num_queries, num_outputs = logits.shape
        no_object = num_outputs if self.use_sigmoid else num_outputs - 1
        labels = targets.labels.new_full((num_layers * batch_size * num_queries,), no_object)
        labels[matches.queries] = targets.labels.flatten()[matches.targets]
        weights, total_weight = None, num_boxes
        if not self.use_sigmoid:
            weights = logits.new_full(labels.shape, self.no_object_weight)
            weights[matches.queries] = 1.0
            class_weight = getattr(self.loss_cls, 'class_weight', None)
            by_class = weights if class_weight is None else weights * weights.new_tensor(class_weight)[labels]
            total_weight = by_class.view(num_layers, -1).sum(1)
        loss = self.loss_cls(logits.flatten(0, 2), labels, weights, reduction_override='none')
        return loss.view(num_layers, -1).sum(1) / total_weight

    def _boxes(self, boxes: Tensor, targets: Targets, matches: Matches, num_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """L1 and IoU losses (L,) over the matched pairs."""
        if not len(matches.queries):
            zero = boxes.flatten(1).sum(1) * 0  # keeps the box branch in the graph
            return zero, zero
        num_layers = len(boxes)
        matched = boxes.flatten(0, 2)[matches.queries]
        wanted = targets.boxes.to(boxes.dtype).flatten(0, 1)[matches.targets]
        loss_bbox = self.loss_bbox(matched, wanted, reduction_override='none')
        loss_iou = self.loss_iou(bbox_cxcywh_to_xyxy(matched), bbox_cxcywh_to_xyxy(wanted), reduction_override='none')
        return tuple(loss.view(num_layers, -1).sum(1) / num_boxes for loss in (loss_bbox, loss_iou))

    def _warn_of_crowds(self, counts: list[int], num_queries: int) -> None:
        if self._warned_of_crowds or max(counts) <= num_queries:
            return
        self._warned_of_crowds = True
        print_log(
            f'An image has {max(counts)} objects, but the model only {num_queries} queries: the cheapest '
            f'{num_queries} are matched, the others are ignored. Raise num_queries. (Said once.)',
            logger='current',
            level=logging.WARNING,
        )
