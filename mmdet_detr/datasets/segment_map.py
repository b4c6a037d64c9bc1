"""Reads the PNG of COCO's panoptic format."""

import mmcv
import numpy as np
from mmengine.fileio import get

from .images import BrokenImageError


def read_segment_map(path: str, size: tuple[int, int], backend_args: dict | None = None) -> np.ndarray:
    """Read the segment of every pixel: R + 256 G + 65536 B of the colour, 0 is VOID.

    Args:
        path: the PNG.
        size: (width, height) that it has to have.
        backend_args: mmengine's arguments of the storage.

    Returns:
        (H, W) int32.

    Raises:
        BrokenImageError: there is no such file, it cannot be read, has another size, or is not in colours of 8 bits.
    """
    try:
        colours = mmcv.imfrombytes(get(path, backend_args=backend_args), flag='unchanged')  # as stored, not turned
    except FileNotFoundError:
        raise BrokenImageError(f'{path}: there is no such file') from None
    except Exception as error:  # decoders and storages raise anything
        raise BrokenImageError(f'{path}: {type(error).__name__}: {error}') from None
    if colours is None:
        raise BrokenImageError(f'{path}: no image that OpenCV reads')
    if colours.ndim != 3 or colours.dtype != np.uint8:
        raise BrokenImageError(f'{path}: segments are colours, R + 256 G + 65536 B, but this image has none')
    if colours.shape[1::-1] != size:
        found = f'{colours.shape[1]} x {colours.shape[0]}'
        raise BrokenImageError(f'{path}: {found} pixels, but {size[0]} x {size[1]} in the annotations')
    blue, green, red = (colours[..., i].astype(np.int32) for i in range(3))
    return red + 256 * green + 65536 * blue
