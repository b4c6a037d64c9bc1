"""Losses together with their gradients.

A DETR's loss reads few numbers through many small operations, and autograd would double them. The losses of the paper
therefore bring their derivative along; any other loss of mmdet has it taken by autograd, here and now.
"""

from collections.abc import Callable
from typing import Any

import torch
from mmdet.models.losses import CrossEntropyLoss, GIoULoss, L1Loss
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

ValueAndGradient = tuple[Tensor, Tensor]  # (N,) and, like the predictions, (N, C)
Gradient = Callable[[Tensor, Tensor], Tensor]  # of predictions (N, C) for upstream gradients (N,): (N, C)


def class_loss(loss: Any, logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Gradient]:
    """Loss (N,) of logits (N, C) for labels (N,) with weights (N,).

    Its gradient is computed when it is wanted: kept until then, it would double the memory.
    """
    if type(loss) is CrossEntropyLoss and not loss.use_sigmoid and loss.ignore_index is None and weights is not None:
        return _cross_entropy(loss, logits, labels, weights)
    values, gradient = _by_autograd(lambda x: loss(x, labels, weights, reduction_override='none'), logits)
    return values, lambda logits, upstream: gradient * upstream[:, None]


def box_loss(loss: Any, boxes: Tensor, wanted: Tensor) -> ValueAndGradient:
    """Loss of boxes (N, 4) on wanted boxes (N, 4), both normalised cxcywh; for a loss on cxcywh."""
    if type(loss) is L1Loss:
        difference = boxes - wanted
        return loss.loss_weight * difference.abs().sum(1), loss.loss_weight * difference.sign()
    return _by_autograd(lambda x: loss(x, wanted, reduction_override='none'), boxes)


def iou_loss(loss: Any, boxes: Tensor, wanted: Tensor) -> ValueAndGradient:
    """Loss of boxes (N, 4) on wanted boxes (N, 4), both normalised cxcywh; for a loss on xyxy."""
    if type(loss) is GIoULoss:
        return _giou(loss, boxes, wanted)
    corners = bbox_cxcywh_to_xyxy(wanted)
    return _by_autograd(lambda x: loss(bbox_cxcywh_to_xyxy(x), corners, reduction_override='none'), boxes)


def _by_autograd(loss: Callable[[Tensor], Tensor], predictions: Tensor) -> ValueAndGradient:
    with torch.enable_grad():
        predictions = predictions.detach().requires_grad_()
        values = loss(predictions).view(len(predictions), -1).sum(1)
        (gradient,) = torch.autograd.grad(values.sum(), predictions)
    return values.detach(), gradient


def _cross_entropy(loss: CrossEntropyLoss, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Gradient]:
    scale = loss.loss_weight * weights
    if loss.class_weight is not None:
        scale *= scale.new_tensor(loss.class_weight)[labels]
    at_labels = labels[:, None]

    def gradient(logits: Tensor, upstream: Tensor) -> Tensor:
        by_value = (upstream * scale)[:, None]
        return logits.softmax(1).mul_(by_value).scatter_add_(1, at_labels, -by_value)

    return logits.log_softmax(1).gather(1, at_labels).squeeze(1).mul_(-scale), gradient


def _giou(loss: GIoULoss, boxes: Tensor, wanted: Tensor) -> ValueAndGradient:
    """Generalised IoU (arXiv 1902.09630); with overlap I, union U and hull C it is I/U + U/C - 1."""
    (center, wanted_center), (size, wanted_size) = torch.stack((boxes, wanted)).chunk(2, dim=2)  # (N, 2)
    low, high = center - size / 2, center + size / 2
    wanted_low, wanted_high = wanted_center - wanted_size / 2, wanted_center + wanted_size / 2
    inner = torch.minimum(high, wanted_high) - torch.maximum(low, wanted_low)  # negative: the gap between them
    outer = size + wanted_size - inner
    overlap_size = inner.clamp(min=0)
    overlap = overlap_size.prod(1, keepdim=True)
    union = (size.prod(1, keepdim=True) + wanted_size.prod(1, keepdim=True) - overlap).clamp(min=loss.eps)
    hull = outer.prod(1, keepdim=True).clamp(min=loss.eps)
    iou, fill = overlap / union, union / hull
    # derivatives by I, with U = areas - I; by the own area; by C
    by_overlap, by_area, by_hull = (1 + iou) / union - 1 / hull, 1 / hull - iou / union, -fill / hull
    # an area's derivative by one side is the other side; outer = sizes - inner
    by_outer = by_hull * outer.flip(1)
    by_inner = by_overlap * overlap_size.flip(1) * (inner > 0) - by_outer
    by_high, by_low = by_inner * (high < wanted_high), by_inner * (low > wanted_low)
    by_size = by_area * size.flip(1) + by_outer + (by_high + by_low) / 2
    gradient = torch.cat((by_high - by_low, by_size), dim=1)
    return loss.loss_weight * (2 - iou - fill).squeeze(1), -loss.loss_weight * gradient
