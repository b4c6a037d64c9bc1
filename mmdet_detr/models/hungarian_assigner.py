"""One-to-one matching of predictions and objects at the least cost (paper section 3.1)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.models.task_modules.assigners import (
    AssignResult,
    BaseAssigner,
    BBoxL1Cost,
    ClassificationCost,
    FocalLossCost,
    IoUCost,
)
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmdet.utils import ConfigType
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..registry import TASK_UTILS
from .precision import at_least_float32

OVERLAP_EPS = 1e-8  # in units of the image's area: a tenth of a pixel squared; bounds the quotient of empty boxes

NOT_FINITE = 1e8  # cost of a prediction that overflowed, as in half precision; SciPy refuses NaN

DETR_COSTS = (
    {'type': 'ClassificationCost', 'weight': 1.0},
    {'type': 'BBoxL1Cost', 'weight': 5.0, 'box_format': 'xywh'},
    {'type': 'IoUCost', 'iou_mode': 'giou', 'weight': 2.0},
)


class Targets(NamedTuple):
    """Objects of a batch, padded to the largest number T in one image."""

    labels: Tensor  # (B, T) int64, padded with 0
    boxes: Tensor  # (B, T, 4) cxcywh in units of the unpadded image, padded with 0
    counts: list[int]  # objects of each image


class Matches(NamedTuple):
    """M matched pairs of each decoder layer, layer by layer, as indices into flattened tensors."""

    queries: Tensor  # (L*M,) into (L*B*Q,)
    targets: Tensor  # (L*M,) into (B*T,)


def _classification_cost(cost: ClassificationCost, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    # minus the probability stands in for the log-likelihood: it is on the scale of the box costs (section 3.1)
    return _at_labels(logits.softmax(-1), targets.labels).neg_()


def _focal_cost(cost: FocalLossCost, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    p = logits.sigmoid()
    positive = -(p + cost.eps).log() * cost.alpha * (1 - p) ** cost.gamma
    negative = -(1 - p + cost.eps).log() * (1 - cost.alpha) * p**cost.gamma
    return _at_labels(positive - negative, targets.labels)


def _l1_cost(cost: BBoxL1Cost, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    target_boxes = targets.boxes
    if cost.box_format == 'xyxy':
        boxes, target_boxes = bbox_cxcywh_to_xyxy(boxes), bbox_cxcywh_to_xyxy(target_boxes)
    first, *others = _planes(boxes, target_boxes)
    distance = (first[0] - first[1]).abs_()
    for predicted, target in others:
        distance += (predicted - target).abs_()
    return distance


def _iou_cost(cost: IoUCost, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    if cost.iou_mode not in ('iou', 'giou'):
        raise ValueError(f"the batched loss matches on iou_mode 'iou' or 'giou', got {cost.iou_mode!r}")
    (x1, tx1), (y1, ty1), (x2, tx2), (y2, ty2) = _planes(bbox_cxcywh_to_xyxy(boxes), bbox_cxcywh_to_xyxy(targets.boxes))
    width, height, target_width, target_height = x2 - x1, y2 - y1, tx2 - tx1, ty2 - ty1
    overlap_width = torch.minimum(x2, tx2).sub_(torch.maximum(x1, tx1))  # negative: the gap between the boxes
    overlap_height = torch.minimum(y2, ty2).sub_(torch.maximum(y1, ty1))
    # the two boxes side by side, less what they share, span the hull of both
    hull = (width + target_width - overlap_width).mul_(height + target_height - overlap_height)
    overlap = overlap_width.clamp_(min=0).mul_(overlap_height.clamp_(min=0))
    union = (width * height + target_width * target_height - overlap).clamp_(min=OVERLAP_EPS)
    iou = overlap.div_(union)
    if cost.iou_mode == 'giou':
        iou += union.div_(hull.clamp_(min=OVERLAP_EPS)).sub_(1)
    return iou.neg_()


def _planes(boxes: Tensor, target_boxes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The four coordinates of boxes (L, B, Q, 4) and targets (B, T, 4), each as (L, B, Q, 1) and (B, 1, T).

    Pairing plane by plane is several times faster than pairing boxes with a last axis of four.
    """
    return list(zip(boxes[..., None].unbind(-2), target_boxes[:, None].unbind(-1), strict=True))


BATCHED_COSTS: dict[type, Callable[..., Tensor]] = {
    ClassificationCost: _classification_cost,
    FocalLossCost: _focal_cost,
    BBoxL1Cost: _l1_cost,
    IoUCost: _iou_cost,
}


def _at_labels(class_cost: Tensor, labels: Tensor) -> Tensor:
    """Pick from costs (L, B, Q, K') the columns of the labels (B, T): (L, B, Q, T)."""
    num_layers, _, num_queries, _ = class_cost.shape
    return class_cost.gather(-1, labels[None, :, None].expand(num_layers, -1, num_queries, -1))


@TASK_UTILS.register_module()
class HungarianAssigner(BaseAssigner):
    """Matches predictions and objects one to one at the least total cost.

    Args:
        match_costs: one cost or several to sum, in mmdet's terms. :meth:`assign` takes any of mmdet's,
            :meth:`match` those on classes and boxes.
    """

    def __init__(self, match_costs: ConfigType | Sequence[ConfigType] = DETR_COSTS) -> None:
        if isinstance(match_costs, dict):
            match_costs = [match_costs]
        self.match_costs = [MMDET_TASK_UTILS.build(cost) for cost in match_costs]

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Cost of every prediction against every object of its own image.

        Args:
            logits: (L, B, Q, K+1), or (L, B, Q, K) for a sigmoid loss.
            boxes: (L, B, Q, 4), normalised cxcywh.
            targets: objects of the batch.

        Returns:
            Tensor (L, B, Q, T), at least float32 and finite: a prediction of NaN or infinity is the dearest of all.
            Columns beyond an image's count have no meaning.

        Raises:
            ValueError: one of ``match_costs`` has no batched form.
        """
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        targets = targets._replace(boxes=targets.boxes.to(boxes.dtype))
        total = boxes.new_zeros(())
        for cost in self.match_costs:
            if type(cost) not in BATCHED_COSTS:
                known = ', '.join(sorted(kind.__name__ for kind in BATCHED_COSTS))
                raise ValueError(f'the batched loss matches on {known}; got {type(cost).__name__}')
            total = BATCHED_COSTS[type(cost)](cost, logits, boxes, targets).mul_(cost.weight).add_(total)
        return total.nan_to_num_(nan=NOT_FINITE, posinf=NOT_FINITE, neginf=NOT_FINITE)

    def match(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Matches:
        """Match all images of all decoder layers; arguments as in :meth:`cost`.

        The one copy from the device to the host in a training step happens here, and one copy back. Where an image
        has more objects than there are queries, the cheapest are matched.
        """
        num_layers, batch_size, num_queries = boxes.shape[:3]
        padded_count = targets.labels.shape[1]
        cost = self.cost(logits, boxes, targets).cpu().numpy()
        pairs = [np.empty((2, 0), dtype=np.int64)]
        for layer in range(num_layers):
            for image, count in enumerate(targets.counts):
                query, target = linear_sum_assignment(cost[layer, image, :, :count])
                first_query = (layer * batch_size + image) * num_queries
                pairs.append(np.stack((query + first_query, target + image * padded_count)))
        queries, matched = torch.from_numpy(np.concatenate(pairs, axis=1)).to(boxes.device)
        return Matches(queries, matched)

    @torch.no_grad()
    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs: Any
    ) -> AssignResult:
        """Match one image, for every other head of mmdet.

        Args:
            pred_instances: what the costs read: ``scores`` (Q, K+1) logits, ``bboxes`` (Q, 4) xyxy in pixels, masks.
            gt_instances: ``labels`` (T,), ``bboxes`` (T, 4) xyxy in pixels, masks.
            img_meta: ``img_shape`` (h, w).
            kwargs: accepted as by mmdet's assigners; not read.

        Returns:
            ``gt_inds`` (Q,): 0 for no object, else 1 + the index of the object; ``labels`` (Q,): its class or -1.
        """
        num_preds, num_gts = len(pred_instances), len(gt_instances)
        gt_labels = gt_instances.labels
        gt_inds = gt_labels.new_zeros(num_preds, dtype=torch.long)
        labels = gt_labels.new_full((num_preds,), -1, dtype=torch.long)
        if num_preds and num_gts:
            costs = [cost(pred_instances, gt_instances, img_meta) for cost in self.match_costs]
            pairs = np.stack(linear_sum_assignment(torch.stack(costs).sum(0).cpu().numpy()))
            query, target = torch.from_numpy(pairs).to(gt_labels.device)
            gt_inds[query] = target + 1
            labels[query] = gt_labels[target]
        return AssignResult(num_gts=num_gts, gt_inds=gt_inds, max_overlaps=None, labels=labels)
