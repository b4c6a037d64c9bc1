"""Which cells of a feature map show the image, and which only its padding.

An image sits in the top left corner of its padded input, so its cells are a rectangle. Two integers an image,
known on the host, replace the mask images that other implementations fill, resize and count on the device.
"""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures import OptSampleList
from torch import Tensor

Cells = tuple[int, int]


def image_cells(batch_data_samples: OptSampleList, feature_size: Cells) -> list[Cells] | None:
    """Rows and columns of each image in a feature map.

    Follows ``Joiner`` and ``Backbone`` of the official ``models/backbone.py``, which resizes the padding mask to the
    feature map by nearest neighbour.

    Args:
        batch_data_samples: samples with ``img_shape`` (h, w) and ``batch_input_shape`` (H, W) in pixels; None
            stands for images without padding.
        feature_size: (rows, columns) of the feature map.

    Returns:
        (rows, columns) of each image, at least (1, 1); None where no image is padded.
    """
    if batch_data_samples is None:
        return None
    cells = []
    for sample in batch_data_samples:
        (h, w), (padded_h, padded_w) = sample.img_shape[:2], sample.batch_input_shape
        cells.append((_nearest_cells(h, padded_h, feature_size[0]), _nearest_cells(w, padded_w, feature_size[1])))
    return cells if any(cell != tuple(feature_size) for cell in cells) else None


def _nearest_cells(length: int, padded_length: int, num_cells: int) -> int:
    """How many of ``num_cells`` samples of a padded axis fall on the image, in the float32 arithmetic of PyTorch."""
    if length >= padded_length:
        return num_cells
    source = np.arange(num_cells, dtype=np.float32) * np.float32(padded_length / num_cells)
    return max(1, int(np.searchsorted(np.floor(source), length)))


def attention_mask(cells: Sequence[Cells], feature_size: Cells, device: torch.device) -> Tensor:
    """Mask of the keys that attention may look at.

    Returns:
        Bool tensor (B, 1, 1, H*W), True on cells of the image.
    """
    mask = torch.zeros(len(cells), *feature_size, dtype=torch.bool, device=device)
    for image, (rows, columns) in enumerate(cells):
        mask[image, :rows, :columns] = True  # on the device: no copy, and so no wait
    return mask.flatten(1)[:, None, None]
