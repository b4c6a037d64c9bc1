"""Sine position encoding of feature maps, as in the official ``models/position_encoding.py`` (paper section A.4)."""

import math

import torch
from torch import Tensor

from .padding import Size

TEMPERATURE = 10000
SCALE = 2 * math.pi
EPS = 1e-6


def sine_position_encoding(
    cells: Tensor | None, grid_size: Size, num_channels: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Position encoding of a batch of feature maps: half of the channels for the row, half for the column.

    Computed in float32 and cast at the end, whatever the type of the model. Cells of the padding repeat the last
    position of the image; attention never reads them.

    Args:
        cells: (rows, columns) of each image without its padding, (B, 2); None where no image is padded.
        grid_size: (rows, columns) of the feature map.
        num_channels: C, a multiple of 4.
        device: where the encoding is needed.
        dtype: type of the result.

    Returns:
        Tensor (B, rows*columns, C), or (1, rows*columns, C) where ``cells`` is None.
    """
    height, width = grid_size
    of_rows, of_columns = (None, None) if cells is None else cells.unbind(1)
    y = _encode_axis(height, of_rows, num_channels // 2, device).to(dtype)[:, :, None].expand(-1, -1, width, -1)
    x = _encode_axis(width, of_columns, num_channels // 2, device).to(dtype)[:, None].expand(-1, height, -1, -1)
    return torch.cat((y, x), dim=3).flatten(1, 2)


def _encode_axis(length: int, image_lengths: Tensor | None, num_channels: int, device: torch.device) -> Tensor:
    """Codes (1 or B, length, C) of the positions 1 to length, in turns of the image's length."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)[None]
    if image_lengths is not None:
        position = torch.minimum(position, image_lengths[:, None])
    turns = position / (position[:, -1:] + EPS) * SCALE
    return sine_and_cosine(turns, num_channels)


def sine_and_cosine(angle: Tensor, num_channels: int) -> Tensor:
    """Sine on even and cosine on odd channels of angles (...) at all wavelengths: (..., num_channels)."""
    # Not cached: what is computed in torch.export or in inference mode is no use to a later training.
    pair = torch.arange(num_channels // 2, dtype=torch.float32, device=angle.device)
    angles = angle[..., None] / TEMPERATURE ** (2 * pair / num_channels)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
