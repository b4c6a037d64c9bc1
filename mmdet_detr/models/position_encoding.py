"""Sine position encoding of feature maps, as in the official ``models/position_encoding.py`` (paper section A.4)."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .padding import Cells

TEMPERATURE = 10000
SCALE = 2 * math.pi
EPS = 1e-6


@lru_cache(maxsize=1024)
def _encode_axis(length: int, image_length: int, num_channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Encode one axis: sine on even and cosine on odd channels of the position, in turns of the image's length.

    Computed in float32 and only then cast, whatever the type of the model. Cells of the padding repeat the last
    position; attention never reads them.

    Returns:
        Tensor (length, num_channels).
    """
    with torch.inference_mode(False):  # a cached tensor must be usable in training too
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device).clamp(max=image_length)
        position = position / (image_length + EPS) * SCALE
        channel = torch.arange(num_channels, dtype=torch.float32, device=device)
        wavelength = TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode='floor') / num_channels)
        angle = position[:, None] / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1).to(dtype)


def sine_position_encoding(
    cells: Sequence[Cells] | None, feature_size: Cells, num_channels: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Position encoding of a batch of feature maps: half of the channels for the row, half for the column.

    Args:
        cells: (rows, columns) of each image without its padding; None where no image is padded.
        feature_size: (H, W).
        num_channels: C, a multiple of 4.
        device: where the encoding is needed.
        dtype: type of the result.

    Returns:
        Tensor (B, H*W, C), or (1, H*W, C) where ``cells`` is None.
    """
    height, width = feature_size
    half = num_channels // 2

    def encode(rows: int, columns: int) -> Tensor:
        y = _encode_axis(height, rows, half, device, dtype)[:, None].expand(height, width, half)
        x = _encode_axis(width, columns, half, device, dtype)[None].expand(height, width, half)
        return torch.cat((y, x), dim=2).flatten(0, 1)

    return torch.stack([encode(*cell) for cell in cells or [feature_size]])
