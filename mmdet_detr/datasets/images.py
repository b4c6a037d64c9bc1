"""Whether an image file can be trained on, from its first and its last bytes where its format marks its end."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # where PIL warns of a decompression bomb: 0.5 GB of RGB
TURNING = {'JPEG', 'MPO', 'PNG'}  # what OpenCV turns and Pillow does not; a TIFF is turned by both, a WebP by none
TURNED = {5, 6, 7, 8}  # values of EXIF's orientation that swap width and height
ENDS = {'PNG': b'IEND\xaeB`\x82', 'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'GIF': b';'}
TAIL = 4096


class BrokenImageError(ValueError):
    """An image that cannot be used; the message says why, without the file."""


@dataclass(frozen=True)
class Header:
    """What the head of an image file says: format, size in pixels as stored, and whether EXIF swaps its sides."""

    format: str
    width: int
    height: int
    turned: bool

    def size(self, ignore_orientation: bool = False) -> tuple[int, int]:
        """(width, height) as decoders return it."""
        swapped = self.turned and not ignore_orientation
        return (self.height, self.width) if swapped else (self.width, self.height)


def inspect_image(
    path: Path | str,
    max_pixels: int = MAX_PIXELS,
    size: tuple[int, int] | None = None,
    ignore_orientation: bool = False,
) -> Header:
    """Read an image's head and look at its end; formats that have no mark at theirs are decoded.

    Args:
        path: the file.
        max_pixels: more than that are refused; Pillow refuses twice ``MAX_PIXELS`` itself.
        size: (width, height) that annotations say.
        ignore_orientation: whether it will be decoded as stored, and not as EXIF turns it.

    Returns:
        What its head says.

    Raises:
        BrokenImageError: the file is missing, empty, no image, cut off, too large, or of another size.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise BrokenImageError('no regular file')
        with path.open('rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the limit of pixels is ours
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
    except Exception as error:  # a decoder of PIL on bytes that nobody foresaw
        raise BrokenImageError(f'{type(error).__name__}: {error}') from None
    if header.width * header.height > max_pixels:
        raise BrokenImageError(f'{header.width} x {header.height} pixels are more than max_pixels={max_pixels}')
    _require_end(path, header.format, tail)
    found = header.size(ignore_orientation)
    if size is not None and found != size:
        turned = ', turned by EXIF' if header.turned and not ignore_orientation else ''
        raise BrokenImageError(f'{found[0]} x {found[1]} pixels{turned}, but {size[0]} x {size[1]} in the annotations')
    return header


def is_local(path: str, backend_args: dict[str, Any] | None) -> bool:
    """Whether mmengine reads a path from the local disk."""
    return '://' not in path and (backend_args or {}).get('backend', 'local') in ('local', 'disk')


def _require_end(path: Path, kind: str, tail: bytes) -> None:
    if kind != 'WEBP' and not (kind in ENDS and tail.rstrip(b'\0').endswith(ENDS[kind])):  # Pillow opens whole WebPs
        try:  # cameras append films to a JPEG; other formats have no mark
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                with Image.open(path) as image:
                    image.load()  # raises where data is missing, which OpenCV fills with grey
            if mmcv.imread(path) is None:
                raise ValueError('OpenCV does not read it')
        except Exception as error:  # whatever a decoder raises
            raise BrokenImageError(f'cut off or broken: {type(error).__name__}: {error}') from None


def _turned(image: Image.Image) -> bool:
    if image.format not in TURNING or (image.format == 'PNG' and 'exif' not in image.info):
        return False  # of a PNG, Pillow would decode the image to look behind it
    return image.getexif().get(ExifTags.Base.Orientation) in TURNED
