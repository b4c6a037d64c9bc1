"""Losses together with their gradients.

A DETR's loss reads few numbers through many small operations, and autograd would double them. The losses of the paper
therefore bring their derivative along; any other loss of mmdet has it taken by autograd, here and now.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.losses import CrossEntropyLoss, FocalLoss, GIoULoss, L1Loss
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

from .matching.costs import OVERLAP_EPS
from .matching.targets import upload

ValueAndGradient = tuple[Tensor, Tensor]  # (N,) and, like the predictions, (N, C)
Gradient = Callable[[Tensor, Tensor], Tensor]  # of predictions (N, C) for upstream gradients (N,): (N, C)


def class_loss(loss: Any, logits: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Gradient]:
    """Loss (N,) of logits (N, C) for labels (N,) with weights (N,).

    Its gradient is computed when it is wanted: kept until then, it would double the memory.
    """
    if type(loss) is CrossEntropyLoss and not loss.use_sigmoid and loss.ignore_index is None and weights is not None:
        return _cross_entropy(loss, logits, labels, weights)
    if type(loss) is FocalLoss and loss.use_sigmoid and not loss.activated and weights is None:
        return _focal(loss, logits, labels)
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
    if type(loss) is GIoULoss and loss.eps <= OVERLAP_EPS:  # so small that its clamp needs no derivative
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
    scale = weights * -loss.loss_weight  # of the log-probability
    if loss.class_weight is not None:
        scale *= upload(torch.as_tensor(loss.class_weight, dtype=scale.dtype), scale.device)[labels]
    at_labels = labels[:, None]

    def gradient(logits: Tensor, upstream: Tensor) -> Tensor:
        by_log_probability = (upstream * scale)[:, None]
        return logits.softmax(1).mul_(-by_log_probability).scatter_add_(1, at_labels, by_log_probability)

    return logits.log_softmax(1).gather(1, at_labels).squeeze(1).mul_(scale), gradient


def _focal(loss: FocalLoss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Gradient]:
    """Sigmoid focal loss (arXiv 1708.02002); the label C stands for no object."""
    has_object = (labels < logits.shape[1])[:, None]
    at_labels = labels.clamp(max=logits.shape[1] - 1)[:, None]
    on_object, on_others = loss.loss_weight * loss.alpha, loss.loss_weight * (1 - loss.alpha)

    def value(x: Tensor) -> Tensor:
        """-p^gamma log(1 - p), for p = sigmoid(x)."""
        return F.softplus(x).mul_(x.sigmoid().pow_(loss.gamma))

    def derivative(x: Tensor) -> Tensor:
        p = x.sigmoid()
        return F.softplus(x).mul_(1 - p).mul_(loss.gamma).add_(p).mul_(p.pow_(loss.gamma))

    def gradient(logits: Tensor, upstream: Tensor) -> Tensor:
        x = logits.gather(1, at_labels)
        instead = derivative(-x).mul_(-on_object) - derivative(x).mul_(on_others)
        everywhere = derivative(logits).mul_(on_others)
        return everywhere.scatter_add_(1, at_labels, instead.mul_(has_object)).mul_(upstream[:, None])

    x = logits.gather(1, at_labels)
    instead = value(-x).mul_(on_object) - value(x).mul_(on_others)
    return value(logits).sum(1).mul_(on_others) + instead.mul_(has_object).squeeze(1), gradient


def _giou(loss: GIoULoss, boxes: Tensor, wanted: Tensor) -> ValueAndGradient:
    """Generalised IoU (arXiv 1902.09630); with overlap I, union U and hull C it is I/U + U/C - 1."""
    centers, sizes = torch.stack((boxes, wanted)).chunk(2, dim=2)  # (2, N, 2), of the boxes and of those wanted
    halves = sizes / 2
    (low, wanted_low), (high, wanted_high) = (centers - halves).unbind(), (centers + halves).unbind()
    inner = torch.minimum(high, wanted_high).sub_(torch.maximum(low, wanted_low))  # negative: the gap between them
    outer = sizes.sum(0).sub_(inner)
    overlap_size = inner.clamp(min=0)
    overlap = overlap_size.prod(1, keepdim=True)
    union = sizes.prod(2, keepdim=True).sum(0).sub_(overlap).clamp_(min=loss.eps)
    inverse_hull = outer.prod(1, keepdim=True).clamp_(min=loss.eps).reciprocal_()
    iou, fill = overlap / union, union * inverse_hull
    # derivatives by I, with U = areas - I; by the own area; by C
    by_area = inverse_hull - iou / union
    by_overlap = union.reciprocal_().sub_(by_area)
    # an area's derivative by one side is the other side; outer = sizes - inner
    by_outer = outer.flip(1).mul_(inverse_hull * fill)  # negated
    by_inner = overlap_size.flip(1).mul_(by_overlap).mul_(inner > 0).add_(by_outer)
    by_high, by_low = by_inner * (high < wanted_high), by_inner * (low > wanted_low)
    by_size = sizes[0].flip(1).mul_(by_area).sub_(by_outer).add_(by_high + by_low, alpha=0.5)
    gradient = torch.cat((by_high.sub_(by_low), by_size), dim=1)
    return (2 - iou).sub_(fill).squeeze(1).mul_(loss.loss_weight), gradient.mul_(-loss.loss_weight)
