import io
import os
import zlib

import mmcv
import numpy as np
import pytest
from PIL import Image

from mmdet_detr.datasets.images import IMAGES, BrokenImageError, inspect_image
from mmdet_detr.inference.sources import Images, find_input
from mmdet_detr.own_data.files import Files

RANDOM = np.random.default_rng(0)


def encoded(kind: str, mode: str = 'RGB', size: tuple[int, int] = (40, 30), **options) -> bytes:
    depth = len(Image.new(mode, (1, 1)).getbands())
    pixels = RANDOM.integers(0, 256, (size[1], size[0], depth), dtype=np.uint8).squeeze(2 if depth == 1 else ())
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize('ending', sorted(IMAGES))
def test_every_ending_can_be_read_and_trained_on(tmp_path, ending):
    """It is the one table of endings: of a folder to predict on, and of one's own pictures."""
    for name in (f'a{ending}', f'b{ending.upper()}'):
        Image.new('1' if ending == '.pbm' else 'L' if ending == '.pgm' else 'RGB', (40, 30), 1).save(tmp_path / name)
        assert inspect_image(tmp_path / name, size=(40, 30)).size() == (40, 30)
        assert mmcv.imread(tmp_path / name).shape == (30, 40, 3)
    found = find_input(str(tmp_path))
    assert isinstance(found, Images)
    assert found.paths == [str(path) for path in Files(tmp_path).images]
    assert len(found.paths) == 2


def turned(kind: str = 'JPEG') -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(kind, exif=exif)


def with_thumbnail() -> bytes:
    exif = Image.Exif()
    exif[0x927C] = encoded('JPEG', size=(8, 8))
    return encoded('JPEG', exif=exif)


def sixteen_bits() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 2**16, (30, 40), dtype=np.uint16)).save(stream, 'PNG')
    return stream.getvalue()


def animated() -> bytes:
    frames = [Image.new('P', (40, 30), colour) for colour in (1, 2, 3)]
    stream = io.BytesIO()
    frames[0].save(stream, 'GIF', save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    ('content', 'size'),
    [
        (encoded('JPEG'), (40, 30)),
        (encoded('JPEG') + b'\0' * 100, (40, 30)),
        (encoded('JPEG', 'L'), (40, 30)),
        (encoded('JPEG', 'CMYK'), (40, 30)),
        (encoded('PNG'), (40, 30)),
        (encoded('PNG', 'RGBA'), (40, 30)),
        (encoded('BMP'), (40, 30)),
        (encoded('WEBP'), (40, 30)),
        (sixteen_bits(), (40, 30)),
        (animated(), (40, 30)),
        (turned(), (30, 40)),
        (encoded('PNG', size=(1, 1)), (1, 1)),
        (encoded('PNG', size=(20000, 50)), (20000, 50)),
        (encoded('JPEG', size=(40, 30)) + bytes(9000), (40, 30)),  # some phones append a film
        (encoded('PNG') + bytes(9000), (40, 30)),
    ],
    ids=lambda value: '' if isinstance(value, bytes) else str(value),
)
def test_sound(tmp_path, content, size):
    path = tmp_path / 'image'
    path.write_bytes(content)
    assert inspect_image(path).size() == size


def test_orientation_ignored(tmp_path):
    (tmp_path / 'image').write_bytes(turned())
    assert inspect_image(tmp_path / 'image').size(ignore_orientation=True) == (40, 30)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
def test_sizes_are_those_of_the_loader(tmp_path, kind):
    (tmp_path / 'image').write_bytes(turned(kind))
    header = inspect_image(tmp_path / 'image')
    for ignored, flag in ((False, 'color'), (True, 'color_ignore_orientation')):
        loaded = mmcv.imfrombytes(turned(kind), flag)
        assert header.size(ignored) == loaded.shape[1::-1]


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'empty'),
        (b'hello', 'no image'),
        (encoded('JPEG')[:-200], 'cut off or broken: OSError: image file is truncated'),
        (with_thumbnail()[:-200], 'cut off or broken'),
        (encoded('GIF')[:-50], 'cut off or broken'),
        (encoded('BMP')[:-50], 'cut off or broken'),
        (encoded('TIFF')[:-50], 'cut off or broken'),
        (encoded('WEBP')[:-50], 'could not create decoder'),
        (animated()[:-10], 'cut off or broken'),
        (encoded('TGA'), 'OpenCV does not read it'),
        (encoded('JPEG')[:30], 'Truncated File Read'),
        (encoded('PNG')[:-20], 'cut off or broken: ValueError: OpenCV does not read it'),
        (encoded('PNG', size=(2000, 60)), '2000 x 60 pixels are more than max_pixels=100000'),
    ],
    ids=lambda value: '' if isinstance(value, bytes) else value,
)
def test_broken(tmp_path, content, reason):
    path = tmp_path / 'image'
    path.write_bytes(content)
    with pytest.raises(BrokenImageError, match=reason) as raised:
        inspect_image(path, max_pixels=100_000)
    assert '\n' not in str(raised.value)


def test_bomb(tmp_path):
    """A head that promises more pixels than any memory holds is refused before it is decoded."""
    content = bytearray(encoded('PNG'))
    content[16:24] = (10**5).to_bytes(4, 'big') * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    (tmp_path / 'image').write_bytes(content)
    with pytest.raises(BrokenImageError, match=r'decompression bomb|more than max_pixels'):
        inspect_image(tmp_path / 'image')


def test_no_file_and_no_image(tmp_path):
    with pytest.raises(BrokenImageError, match='there is no such file'):
        inspect_image(tmp_path / 'none.jpg')
    with pytest.raises(BrokenImageError, match='no regular file'):
        inspect_image(tmp_path)
    os.mkfifo(tmp_path / 'pipe')  # reading one would wait for ever
    with pytest.raises(BrokenImageError, match='no regular file'):
        inspect_image(tmp_path / 'pipe')
