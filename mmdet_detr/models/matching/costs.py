"""Compute the matching costs of many images at once (paper section 3.1), with the settings of mmdet's costs.

A problem is one image in one decoder layer. N problems are computed together, each between its Q predictions and the T
objects of its own image. Predictions are the innermost dimension: there are always many of them, which suits the
processor's vector units, and SciPy's solver works on such rows.
"""

from collections.abc import Callable, Sequence

import torch
from mmdet.models.task_modules.assigners import BBoxL1Cost, ClassificationCost, FocalLossCost, IoUCost
from torch import Tensor

from ...errors import ConfigError

OVERLAP_EPS = 1e-8  # Least area of a union, in units of the image's area: 0.1 x 0.1 pixels at 1000 x 1000.

# Pairs that are computed at a time. A CPU should keep about ten temporary planes in its cache. On other devices memory
# is the limit: 64 MiB for a plane in float32.
CHUNK_ON_CPU = 2**16
CHUNK = 2**24


def batched_cost(match_costs: Sequence, logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor) -> Tensor:
    """Weighted sum of costs.

    Args:
        match_costs: instances of mmdet's costs that :data:`BATCHED_COSTS` knows.
        logits: (N, Q, K+1), or (N, Q, K) for a sigmoid loss.
        boxes: (N, Q, 4), normalised cxcywh.
        labels: (N, T).
        target_boxes: (N, T, 4), normalised cxcywh.

    Returns:
        Tensor (N, T, Q).

    Raises:
        ConfigError: a cost has no batched form.
    """
    for cost in match_costs:
        if type(cost) not in BATCHED_COSTS:
            known = ', '.join(sorted(kind.__name__ for kind in BATCHED_COSTS))
            raise ConfigError(f'the batched loss matches on {known}; got {type(cost).__name__}')
    (num_problems, num_targets), num_queries = labels.shape, boxes.shape[1]
    total = boxes.new_zeros((num_problems, num_targets, num_queries))
    step = max(1, (CHUNK_ON_CPU if boxes.device.type == 'cpu' else CHUNK) // max(1, num_targets * num_queries))
    for start in range(0, num_problems, step):
        part = slice(start, start + step)
        predicted = boxes[part].permute(2, 0, 1).contiguous()[:, :, None]  # (4, N, 1, Q)
        goal = target_boxes[part].permute(2, 0, 1)[..., None]  # (4, N, T, 1)
        for cost in match_costs:
            sign, of_kind = BATCHED_COSTS[type(cost)]
            total[part].add_(of_kind(cost, logits[part], labels[part], predicted, goal), alpha=sign * cost.weight)
    return total


def _probability(cost: ClassificationCost, logits: Tensor, labels: Tensor, predicted: Tensor, goal: Tensor) -> Tensor:
    # The cost is the probability and not its logarithm, so that it has the scale of the box costs (section 3.1).
    return _at_labels(logits.log_softmax(-1), labels).exp_()


def _focal_loss(cost: FocalLossCost, logits: Tensor, labels: Tensor, predicted: Tensor, goal: Tensor) -> Tensor:
    p = _at_labels(logits, labels).sigmoid_()
    positive = -(p + cost.eps).log() * cost.alpha * (1 - p) ** cost.gamma
    negative = -(1 - p + cost.eps).log() * (1 - cost.alpha) * p**cost.gamma
    return positive - negative


def _l1_distance(cost: BBoxL1Cost, logits: Tensor, labels: Tensor, predicted: Tensor, goal: Tensor) -> Tensor:
    if cost.box_format == 'xyxy':
        predicted, goal = (torch.cat((box[:2] - box[2:] / 2, box[:2] + box[2:] / 2)) for box in (predicted, goal))
    return (predicted - goal).abs_().sum(0)


def _iou(cost: IoUCost, logits: Tensor, labels: Tensor, predicted: Tensor, goal: Tensor) -> Tensor:
    if cost.iou_mode not in ('iou', 'giou'):
        raise ValueError(f"the batched loss matches on iou_mode 'iou' or 'giou', got {cost.iou_mode!r}")
    return iou_of(predicted, goal, generalised=cost.iou_mode == 'giou')


def iou_of(predicted: Tensor, goal: Tensor, generalised: bool, eps: float = OVERLAP_EPS) -> Tensor:
    """IoU of boxes, or generalised IoU (arXiv 1902.09630).

    Args:
        predicted: (4, ...) cxcywh.
        goal: (4, ...) cxcywh; the dimensions behind the first are broadcast.
        generalised: whether to subtract the share of the hull that neither box covers.
        eps: least area of union and hull, in units of the boxes.

    Returns:
        Tensor (...).
    """
    (center, size), (goal_center, goal_size) = predicted.chunk(2), goal.chunk(2)  # (2, ...), horizontal and vertical
    low, high = center.sub(size, alpha=0.5), center.add(size, alpha=0.5)
    goal_low, goal_high = goal_center.sub(goal_size, alpha=0.5), goal_center.add(goal_size, alpha=0.5)
    inner = torch.minimum(high, goal_high).sub_(torch.maximum(low, goal_low))  # negative: the gap between them
    outer = (size + goal_size).sub_(inner)  # both side by side, less what they share
    overlap = _area(inner.clamp_(min=0))
    union = (_area(size) + _area(goal_size)).sub_(overlap).clamp_(min=eps)
    iou = overlap.div_(union)
    if generalised:
        iou += (union / _area(outer).clamp_(min=eps)).sub_(1)
    return iou


def _area(size: Tensor) -> Tensor:
    width, height = size.unbind()
    return width * height


def _at_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """The scores (N, Q, K') of each object's class: (N, T, Q)."""
    problem = torch.arange(len(labels), device=labels.device)[:, None]
    return scores.transpose(1, 2)[problem, labels]


# The sign says whether more of it costs more, the function what a cost measures.
BATCHED_COSTS: dict[type, tuple[int, Callable[..., Tensor]]] = {
    ClassificationCost: (-1, _probability),
    FocalLossCost: (1, _focal_loss),
    BBoxL1Cost: (1, _l1_distance),
    IoUCost: (-1, _iou),
}
