"""Find the cells of a feature map that show the image and not its padding.

An image sits in the top left corner of its padded input, so its cells are a rectangle. Its two sides replace the mask
images that other implementations fill, resize and count on the device.
"""

from typing import NamedTuple

import torch
from mmdet.structures import SampleList
from torch import Tensor

from ..errors import ConfigError

Size = tuple[int, int]  # (height, width), in pixels or in cells


class PaddedSizes(NamedTuple):
    """Sizes of a batch that are known on the device only, so that a traced model can take them as an input."""

    sizes: Tensor  # (h, w) of every image in pixels, int64 (B, 2)
    input_size: Size  # (H, W) of the padded input


def padded_sizes(images: Tensor, sizes: Tensor) -> PaddedSizes:
    """Sizes (B, 2) of the unpadded images in a batch (B, 3, H, W).

    Raises:
        ConfigError: the sizes are no (height, width) in whole pixels for each image, or some are larger than the batch
            or below 1. While a model is traced there are no values to look at.
    """
    padded = PaddedSizes(sizes, (images.shape[2], images.shape[3]))
    if is_traced():
        return padded
    if sizes.shape != (len(images), 2) or sizes.is_floating_point():
        raise ConfigError(
            f'sizes have to be whole (height, width) of {len(images)} images, ({len(images)}, 2), got '
            f'{tuple(sizes.shape)} {str(sizes.dtype).removeprefix("torch.")}'
        )
    if (sizes < 1).any() or (sizes > sizes.new_tensor(images.shape[2:])).any():
        raise ConfigError(
            f'sizes have to be within the batch of {tuple(images.shape[2:])} pixels, got {sizes.tolist()}'
        )
    return padded


def is_traced() -> bool:
    """Whether a model is being written down for use elsewhere: by torch.jit.trace, torch.onnx or torch.export."""
    exporting = getattr(torch.compiler, 'is_exporting', lambda: False)  # from PyTorch 2.7 on
    return torch.jit.is_tracing() or exporting()


def image_sizes(batch_data_samples: SampleList) -> tuple[Tensor, Size]:
    """Sizes of the images of a batch.

    Args:
        batch_data_samples: samples with ``img_shape`` (h, w) and ``batch_input_shape`` (H, W) in pixels.

    Returns:
        (h, w) of every image in pixels, int64 (B, 2) on the host, and (H, W) of the padded input.
    """
    sizes = torch.tensor([sample.img_shape[:2] for sample in batch_data_samples])
    return sizes, tuple(batch_data_samples[0].batch_input_shape)


def image_cells(sizes: Tensor, input_size: Size, grid_size: Size) -> Tensor:
    """Rows and columns of each image in a feature map.

    Follows ``Joiner`` and ``Backbone`` of the official ``models/backbone.py``, which resizes the padding mask to the
    feature map by nearest neighbour: a cell reads the mask at one pixel, computed in float32.

    Args:
        sizes: (h, w) of every image in pixels, (B, 2), on any device.
        input_size: (H, W) of the padded input in pixels.
        grid_size: (rows, columns) of the feature map.

    Returns:
        (rows, columns) of every image, int64 (B, 2), at least 1.
    """
    axes = []
    for length, padded, num_cells in zip(sizes.unbind(1), input_size, grid_size, strict=True):
        pixel = torch.arange(num_cells, dtype=torch.float32, device=sizes.device).mul(padded / num_cells).floor()
        axes.append((pixel < length[:, None]).sum(1))
    return torch.stack(axes, dim=1).clamp(min=1)


def cell_mask(cells: Tensor, grid_size: Size) -> Tensor:
    """Mask of the cells that show the image.

    Args:
        cells: (rows, columns) of every image, (B, 2).
        grid_size: (rows, columns) of the feature map.

    Returns:
        Bool tensor (B, rows*columns), True on cells of the image.
    """
    rows, columns = (
        torch.arange(num_cells, device=cells.device) < count[:, None]
        for num_cells, count in zip(grid_size, cells.unbind(1), strict=True)
    )
    return (rows[:, :, None] & columns[:, None]).flatten(1)
