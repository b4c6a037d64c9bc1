"""Collects the objects of a batch, with boxes in units of the image, and marks those that cannot be learnt."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...box_rule import overlaps
from ..precision import at_least_float32


class Targets(NamedTuple):
    """Objects of a batch, padded to the largest number T in one image."""

    labels: Tensor  # (B, T) int64, 0 where not valid
    boxes: Tensor  # (B, T, 4) cxcywh in units of the unpadded image, 0 where not valid
    valid: Tensor  # (B, T) bool, False on padding and on annotations that are left out
    given: Sequence[InstanceData]  # as annotated, for messages
    images: list[str]  # path or id of each image, for messages


def targets_of(
    batch_gt_instances: Sequence[InstanceData], batch_img_metas: Sequence[dict], num_classes: int
) -> Targets:
    """Collect the objects of a batch, without waiting for the device.

    An annotation is valid if its box can be learnt (see :mod:`mmdet_detr.box_rule`) and its label is one of the
    classes.

    Args:
        batch_gt_instances: ``bboxes`` (T, 4) xyxy in pixels and ``labels`` (T,) of each image.
        batch_img_metas: ``img_shape`` (h, w) of each image; ``img_path`` or ``img_id`` name it in messages.
        num_classes: K.
    """
    labels = pad_sequence([gt.labels for gt in batch_gt_instances], batch_first=True).long()
    corners = at_least_float32(pad_sequence([gt.bboxes for gt in batch_gt_instances], batch_first=True))
    sizes = np.array([meta['img_shape'][1::-1] for meta in batch_img_metas], dtype=np.float32)  # (B, wh)
    low, high = (corners.unflatten(-1, (2, 2)) / upload(sizes, corners.device)[:, None, None]).unbind(-2)
    valid = overlaps(low, high, 1).all(-1) & (labels >= 0) & (labels < num_classes)
    boxes = torch.cat(((low + high) / 2, high - low), dim=-1)
    return Targets(
        labels=labels * valid,
        boxes=torch.where(valid[..., None], boxes, 0.0),
        valid=valid,
        given=batch_gt_instances,
        images=[image_name(meta) for meta in batch_img_metas],
    )


def image_name(meta: dict | None) -> str:
    """The name of an image in messages: its path and its id, if they are known."""
    meta = meta or {}
    path, image_id = meta.get('img_path'), meta.get('img_id')
    if path is None:
        return f'image {"without path and id" if image_id is None else image_id}'
    return str(path) if image_id is None else f'{path} (image {image_id})'


def upload(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy values of the host to a device. Neither of the two waits for the other."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else tensor.to(device)
