"""Resizes images like the official DETR (its ``datasets/transforms.py``), to the same size and the same pixels."""

from collections.abc import Sequence

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Resize
from mmdet.structures.mask import BitmapMasks
from PIL import Image

from ..registry import TRANSFORMS

PIXELS = (np.uint8, np.uint16, np.int16, np.float32, np.float64)


def official_size(width: int, height: int, shortest: int, longest: int | None) -> tuple[int, int]:
    """The size (width, height) that the official code resizes an image to.

    The shorter side becomes ``shortest``, or less if the longer one would exceed ``longest``. The bound applies to the
    rounded shorter side, so the longer side can end a pixel above it.
    """
    short, long = sorted((width, height))
    if longest is not None and long / short * shortest > longest:
        shortest = round(longest * short / long)
    shortest = max(1, shortest)
    if width < height:
        return shortest, int(shortest * height / width)
    return int(shortest * width / height), shortest


def resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image (H, W) or (H, W, bands) to a size (width, height), with PIL's anti-aliased bilinear.

    Numbers other than uint8 are summed in float32, and integers are rounded.

    Raises:
        ValueError: the pixels have a type that float32 does not hold.
    """
    if image.dtype not in PIXELS:
        names = ', '.join(np.dtype(kind).name for kind in PIXELS)
        raise ValueError(f'the pixels are {image.dtype}, and only {names} can be resized: convert them in your loader')
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 3):
        return mmcv.imresize(image, size, backend='pillow')
    # Band by band: PIL knows no five, and takes a fourth for transparency.
    bands = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    if image.dtype != np.uint8:
        bands = bands.astype(np.float32)
    images = [Image.fromarray(band).resize(size, Image.Resampling.BILINEAR) for band in bands]
    resized = np.stack([np.asarray(image) for image in images], axis=-1)
    if image.dtype.kind in 'iu':
        resized = resized.round()
    return resized.astype(image.dtype).reshape(*resized.shape[:2], *image.shape[2:])


def resize_nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize masks or label maps (..., H, W) to a size (height, width), as the official code resizes masks.

    That is PyTorch's ``interpolate(mode='nearest')``: pixel i is the pixel floor(i * input / output) of the input, in
    float32. OpenCV and PIL take others.
    """
    for axis, length in ((-1, size[1]), (-2, size[0])):  # rows last, since whole rows are copied fast
        given = pixels.shape[axis]
        scale = np.float32(given) / np.float32(length)
        indices = (np.arange(length, dtype=np.float32) * scale).astype(np.int64)
        pixels = pixels.take(np.minimum(indices, given - 1), axis)
    return pixels


class _Resize(Resize):
    """mmdet's ``Resize`` to a size (width, height), of images of any number of bands and of more types."""

    def _resize_img(self, results: dict) -> None:
        height, width = results['img'].shape[:2]
        image = resize_bilinear(results['img'], results['scale'])
        scale = (image.shape[1] / width, image.shape[0] / height)
        results.update(img=image, img_shape=image.shape[:2], scale_factor=scale, keep_ratio=False)


@TRANSFORMS.register_module()
class ShortestSideResize(BaseTransform):
    """Resize an image so that its shorter side gets a length drawn from a list, with PIL's anti-aliased bilinear.

    Bitmap masks and segmentation maps follow by the official rule (:func:`resize_nearest`), boxes and polygons as in
    mmdet's ``Resize``.

    Args:
        sizes: lengths of the shorter side in pixels to draw from; one length for testing.
        longest: bound of the longer side in pixels; None sets no bound.
    """

    def __init__(self, sizes: Sequence[int], longest: int | None = 1333) -> None:
        self.sizes = tuple(sizes)
        self.longest = longest
        self.resize = _Resize(scale=(1, 1), keep_ratio=False)

    def transform(self, results: dict) -> dict:
        """Read ``img`` (H, W, bands); change it, ``img_shape``, ``scale``, ``scale_factor`` and all annotations.

        Raises:
            ValueError: see :func:`resize_bilinear`.
        """
        height, width = results['img'].shape[:2]
        shortest = self.sizes[np.random.randint(len(self.sizes))]
        self.resize.scale = official_size(width, height, shortest, self.longest)
        bitmaps = {'gt_seg_map': results.pop('gt_seg_map', None)}
        if isinstance(results.get('gt_masks'), BitmapMasks):
            bitmaps['gt_masks'] = results.pop('gt_masks').masks
        results = self.resize(results)
        size = results['img_shape']
        resized = {key: resize_nearest(pixels, size) for key, pixels in bitmaps.items() if pixels is not None}
        if 'gt_masks' in resized:
            resized['gt_masks'] = BitmapMasks(resized['gt_masks'], *size)
        return {**results, **resized}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sizes={self.sizes}, longest={self.longest})'
