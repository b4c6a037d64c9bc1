"""Bring masks and maps to the size of the original image, as the official code does."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..padding import Size

MASKS_AT_ONCE = 8


def enlarged(logits: Tensor, input_size: Size, image_size: Size) -> Tensor:
    """Mask logits (N, H, W) at the pixels of an image, (N, h, w).

    They are enlarged to the padded input first and then cut, because the padding is no part of the image.
    """
    at_input = F.interpolate(logits[:, None], input_size, mode='bilinear', align_corners=False)[:, 0]
    return at_input[:, : image_size[0], : image_size[1]]


def instance_masks(logits: Tensor, input_size: Size, image_size: Size, size: Size) -> Tensor:
    """Binary masks of instances (``PostProcessSegm`` of the official ``models/segmentation.py``).

    Args:
        logits: (N, H, W).
        input_size: of the padded batch in pixels.
        image_size: of the image in it.
        size: of the masks; nearest pixel, as torch counts them.

    Returns:
        Bool (N, *size), True where the probability is more than a half.
    """
    parts = [enlarged(part, input_size, image_size) > 0 for part in logits.split(MASKS_AT_ONCE)]
    if size != image_size:
        parts = [F.interpolate(part[:, None].to(torch.uint8), size)[:, 0].bool() for part in parts]
    return torch.cat(parts)


def nearest_by_centre(length: int, size: int) -> np.ndarray:
    """Index of the source pixel of every one of ``size`` pixels, as Pillow's ``NEAREST`` counts: by pixel centres."""
    steps = np.full(size, length / size)
    steps[:1] /= 2
    return np.floor(steps.cumsum()).astype(np.int64).clip(max=length - 1)
