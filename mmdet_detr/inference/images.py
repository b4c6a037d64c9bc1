"""Brings images of every kind into the form in which mmdet's transforms take them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..datasets.images import BrokenImageError, decodes_files, inspect_image
from ..errors import UserError, one_line

ImageLike = str | Path | np.ndarray | Image.Image


class UnreadableImageError(UserError):
    """An image that cannot be read; the message names it."""


def read_file(path: str, loader: Any) -> np.ndarray:
    """Read an image file or an http(s) address by the loading transform of a pipeline.

    Returns:
        (H, W, 3) BGR; uint8, unless the loader makes floats. EXIF's orientation is applied.

    Raises:
        UnreadableImageError: it is missing, no image, or cut off.
    """
    try:
        if '://' not in path and decodes_files(type(loader)):
            inspect_image(path)  # OpenCV fills what is cut off with grey
        return loader({'img_path': path, 'img_id': 0})['img']
    except (BrokenImageError, AssertionError, OSError) as error:
        reason = 'OpenCV does not read it' if isinstance(error, AssertionError) else one_line(error)
        raise UnreadableImageError(f'{path}: {reason}') from error
    except Exception as error:  # decoders raise anything on broken bytes
        raise UnreadableImageError(f'{path}: {type(error).__name__}: {one_line(error)}') from error


def as_bgr(image: np.ndarray | Image.Image) -> np.ndarray:
    """An image in memory, as OpenCV would read it from a file without loss.

    Args:
        image: a PIL image of any mode but ``F``, turned by its EXIF orientation here; or an array (H, W, 3) BGR,
            (H, W, 4) BGRA or (H, W) grey. uint8, or uint16, whose higher bytes are taken. Opacity is ignored.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        UnreadableImageError: something else, an array of another shape or type, an image without pixels, of mode
            ``F``, or broken.
    """
    if isinstance(image, Image.Image):
        try:
            image = ImageOps.exif_transpose(image)
            image.load()
        except Exception as error:  # decoders raise anything on broken bytes
            raise UnreadableImageError(f'a PIL image cannot be decoded: {one_line(error)}') from error
        if image.mode == 'F':
            raise UnreadableImageError('a PIL image of mode F has no defined range: convert it to 8 bits first')
        if image.mode.startswith('I'):
            pixels = np.asarray(image).astype(np.uint16)
        else:
            pixels = np.asarray(image.convert('RGB'))[..., ::-1]
    elif isinstance(image, np.ndarray):
        pixels = image
    else:
        raise UnreadableImageError(f'no path, PIL image or array: {image!r}')
    kind = f'an array of shape {pixels.shape} and type {pixels.dtype}'
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise UnreadableImageError(f'{kind} is no image: it takes (H, W, 3) BGR of uint8')
    return np.require(pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels[..., :3], requirements=['C', 'W'])
