"""Checks whether an image file can be trained on, by its first and its last bytes if its format has an end mark."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
from mmcv.transforms import LoadImageFromFile
from PIL import ExifTags, Image, UnidentifiedImageError

IMAGES = frozenset(  # endings of files that Pillow and OpenCV read, in lower case
    ['.bmp', '.jp2', '.jpeg', '.jpg', '.mpo', '.pbm', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']
)
MAX_PIXELS = 178_956_970  # Pillow's limit before it warns of a decompression bomb: 0.5 GB of RGB
TURNING = {'JPEG', 'MPO', 'PNG'}  # OpenCV turns these and Pillow does not; both turn a TIFF, none a WebP
TURNED = {5, 6, 7, 8}  # values of EXIF's orientation that swap width and height
ENDS = {'PNG': b'IEND\xaeB`\x82', 'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'GIF': b';'}
TAIL = 4096


class BrokenImageError(ValueError):
    """An image cannot be used; the message says why, without the file."""


@dataclass(frozen=True)
class Header:
    """The head of an image file: format, size in pixels as stored, and whether EXIF swaps its sides."""

    format: str
    width: int
    height: int
    turned: bool

    def size(self, ignore_orientation: bool = False) -> tuple[int, int]:
        """The size (width, height) that decoders return."""
        swapped = self.turned and not ignore_orientation
        return (self.height, self.width) if swapped else (self.width, self.height)


def inspect_image(
    path: Path | str,
    max_pixels: int = MAX_PIXELS,
    size: tuple[int, int] | None = None,
    ignore_orientation: bool = False,
) -> Header:
    """Read the head of an image and look at its end; formats without an end mark are decoded.

    Args:
        path: the file.
        max_pixels: larger images are refused; Pillow refuses more than twice ``MAX_PIXELS`` by itself.
        size: (width, height) in the annotations; None if they do not matter.
        ignore_orientation: whether the loader decodes the image as stored and does not turn it by EXIF.

    Returns:
        The head.

    Raises:
        BrokenImageError: the file is missing, empty, no image, cut off, too large, or of another size.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise BrokenImageError('no regular file')
        with path.open('rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # max_pixels is checked below instead
            with Image.open(file) as image:
                header = Header(image.format or '', *image.size, _turned(image))
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            tail = file.read()
    except BrokenImageError:
        raise
    except FileNotFoundError:
        raise BrokenImageError('there is no such file') from None
    except UnidentifiedImageError:
        raise BrokenImageError('empty' if path.stat().st_size == 0 else 'no image') from None
    except OSError as error:
        raise BrokenImageError(error.strerror or str(error)) from None
    except Image.DecompressionBombError as error:
        raise BrokenImageError(str(error)) from None
    except Exception as error:  # Pillow's decoders raise anything on broken bytes
        raise BrokenImageError(f'{type(error).__name__}: {error}') from None
    if header.width * header.height > max_pixels:
        raise BrokenImageError(f'{header.width} x {header.height} pixels are more than max_pixels={max_pixels}')
    _require_end(path, header.format, tail)
    found = header.size(ignore_orientation)
    if size is not None and found != size:
        turned = ', turned by EXIF' if header.turned and not ignore_orientation else ''
        raise BrokenImageError(f'{found[0]} x {found[1]} pixels{turned}, but {size[0]} x {size[1]} in the annotations')
    return header


def decodes_files(transform: Any) -> bool:
    """Whether a class of transforms decodes image files as mmcv does, so that the checks here are right for it."""
    return getattr(transform, 'transform', None) is LoadImageFromFile.transform


def require_file(path: Path | str) -> None:
    """Check a file of which only a user's own transform knows the format.

    Raises:
        BrokenImageError: there is no such file, or nothing in it.
    """
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:
        raise BrokenImageError('empty' if path.is_file() else 'there is no such file')


def is_local(path: str, backend_args: dict[str, Any] | None) -> bool:
    """Whether mmengine reads a path from the local disk."""
    return '://' not in path and (backend_args or {}).get('backend', 'local') in ('local', 'disk')


def _require_end(path: Path, kind: str, tail: bytes) -> None:
    if kind == 'WEBP':  # Pillow opens only whole ones
        return
    if kind not in ENDS or not tail.rstrip(b'\0').endswith(ENDS[kind]):  # cameras append films to a JPEG
        decode(path)


def decode(path: Path) -> None:
    """Decode an image as a loader does.

    Raises:
        BrokenImageError: Pillow or OpenCV does not read all of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(path) as image:
                image.load()  # raises if data is missing; OpenCV would fill it with grey
        if mmcv.imread(path) is None:
            raise ValueError('OpenCV does not read it')
    except Exception as error:  # decoders raise anything on broken bytes
        raise BrokenImageError(f'cut off or broken: {type(error).__name__}: {error}') from None


def _turned(image: Image.Image) -> bool:
    if image.format not in TURNING or (image.format == 'PNG' and 'exif' not in image.info):
        return False  # Pillow would decode all of a PNG to look for EXIF at its end
    return image.getexif().get(ExifTags.Base.Orientation) in TURNED
