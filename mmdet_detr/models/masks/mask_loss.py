"""Score masks of matched queries (paper section 4.4, official ``loss_masks`` in ``models/detr.py``)."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import SampleList
from mmdet.utils import ConfigType, reduce_mean
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import ConfigError
from ...registry import MODELS
from ..matching.assignment import Solution
from ..matching.targets import upload
from ..padding import Size
from ..precision import at_least_float32

LOSS_MASK = {'type': 'FocalLoss', 'use_sigmoid': True, 'gamma': 2.0, 'alpha': 0.25, 'loss_weight': 1.0}
LOSS_DICE = {'type': 'DiceLoss', 'use_sigmoid': True, 'naive_dice': True, 'eps': 1.0, 'loss_weight': 1.0}
PIXELS_AT_ONCE = 2**22  # four masks of 800 x 1333 pixels


class Matched(NamedTuple):
    """The N matched queries of the last decoder layer, image by image, and their objects."""

    hidden: Tensor  # (N, C)
    images: Tensor  # int64 (N,), image of each query
    masks: Tensor  # uint8 (N, H, W), in the size of the padded batch
    num_boxes: Tensor  # objects of the batch, averaged over ranks, at least 1


def matched_masks(hidden: Tensor, matches: Solution, batch_data_samples: SampleList) -> Matched:
    """Look up hidden states and masks of the matched pairs.

    Args:
        hidden: (L, B, Q, C).
        matches: of all layers.
        batch_data_samples: with ``gt_instances.masks`` (``BitmapMasks``, ``PolygonMasks``) in the size of each image.

    Raises:
        ConfigError: a sample has no masks, or masks of another size than its image.
    """
    if not all('masks' in sample.gt_instances for sample in batch_data_samples):
        raise ConfigError(
            'MaskHead trains on masks, and the data have none: load them with LoadAnnotations(with_bbox=True, '
            'with_mask=True) or mmdet_detr.LoadPanopticSegments'
        )
    for sample in batch_data_samples:
        given, image, padded = sample.gt_instances.masks, sample.img_shape[:2], sample.batch_input_shape
        if (given.height, given.width) not in (tuple(image), tuple(padded)):
            raise ConfigError(
                f'MaskHead got masks of {given.height} x {given.width} pixels of an image of {image[0]} x {image[1]}: '
                'some step of the pipeline or of the data preprocessor resizes images and not their masks'
            )
    num_layers, batch_size, num_queries = hidden.shape[:3]
    num_objects = matches.valid.sum(1)
    counts = np.minimum(num_objects, num_queries)
    first = len(matches.queries) - int(counts.sum())
    queries = matches.queries[first:] - (num_layers - 1) * batch_size * num_queries
    objects = (matches.targets[first:] % max(1, matches.valid.shape[1])).split(counts.tolist())
    masks = [
        _padded(
            upload(np.ascontiguousarray(sample.gt_instances.masks.to_ndarray()), hidden.device)[of_image],
            sample.batch_input_shape,
        )
        for sample, of_image in zip(batch_data_samples, objects, strict=True)
    ]
    num_boxes = reduce_mean(hidden.new_tensor(float(num_objects.sum()), dtype=torch.float32)).clamp(min=1)
    return Matched(
        hidden[-1].flatten(0, 1)[queries],
        upload(np.repeat(np.arange(batch_size), counts), hidden.device),
        torch.cat(masks),
        num_boxes,
    )


def _padded(masks: Tensor, size: Size) -> Tensor:
    return F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))


@MODELS.register_module()
class MaskLoss(nn.Module):
    """Focal and dice loss of masks at the size of the input, divided by the number of objects.

    Padding counts as background, as in the official code. Masks are enlarged and scored a few at a time, and enlarged
    again in the backward pass, so that only their small logits stay in memory. Everything is computed in float32
    (float64 for float64 input), under autocast as well.

    Args:
        loss_mask: a loss on logits and targets (N, pixels) with mmdet's ``reduction_override``, averaged over pixels.
        loss_dice: a loss on logits and targets (N, pixels), a value for each mask.
    """

    def __init__(self, loss_mask: ConfigType = LOSS_MASK, loss_dice: ConfigType = LOSS_DICE) -> None:
        super().__init__()
        self.loss_mask = MMDET_MODELS.build(loss_mask)
        self.loss_dice = MMDET_MODELS.build(loss_dice)

    def forward(self, logits: Tensor, matched: Matched) -> dict[str, Tensor]:
        """Weighted scalars ``loss_mask`` and ``loss_dice``; zeros that stay in the graph where there is no object.

        Args:
            logits: (N, H, W) of the matched queries.
            matched: their objects.
        """
        logits = at_least_float32(logits)
        at_once = max(1, PIXELS_AT_ONCE // matched.masks.shape[1:].numel())
        with torch.autocast(logits.device.type, enabled=False):
            parts = [
                checkpoint(self._score, part, goal, use_reentrant=False, preserve_rng_state=False)
                for part, goal in zip(logits.split(at_once), matched.masks.split(at_once), strict=True)
            ]
            loss_mask, loss_dice = torch.stack(parts).sum(0) / matched.num_boxes.to(logits.dtype)
        return {'loss_mask': loss_mask, 'loss_dice': loss_dice}

    def _score(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Losses (2,), summed over masks, of logits (N, h, w) and masks uint8 (N, H, W)."""
        size = (masks.shape[1], masks.shape[2])
        enlarged = F.interpolate(logits[:, None], size, mode='bilinear', align_corners=False).flatten(1)
        goal = masks.flatten(1).to(enlarged.dtype)
        of_pixels = self.loss_mask(enlarged, goal, reduction_override='none')
        of_masks = self.loss_dice(enlarged, goal, reduction_override='none')
        return torch.stack((of_pixels.mean(1).sum(), of_masks.sum()))
