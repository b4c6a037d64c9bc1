"""Files that are no images, or none that can be used."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write them; gives a part of the reason for which each is refused."""
    (folder / 'text.png').write_text('no picture')
    (folder / 'empty.jpg').write_bytes(b'')
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)).save(file, 'JPEG')
    (folder / 'cut.jpg').write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    (folder / 'huge.png').write_bytes(_png(30_000, 30_000))
    (folder / 'large.png').write_bytes(_png(9_000, 9_000))
    return {
        'text.png': 'no image',
        'empty.jpg': 'empty',
        'cut.jpg': 'cut off',
        'huge.png': '900000000 pixels',
        'large.png': '9000 x 9000 pixels',
    }


def _png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, written row by row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    compressor = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    data = b''.join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    head = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
