"""Draws a legend beside a picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..datasets.palette import Colour
from .fonts import font

TEXT_SHARE = 1 / 28  # height of a line of text relative to the picture, within these bounds in pixels
MIN_TEXT, MAX_TEXT = 11, 28

Entry = tuple[Colour | None, str]  # colour and text; without a colour, text alone


def draw_legend(entries: Sequence[Entry], height: int) -> np.ndarray:
    """A panel of entries on white, in as many columns as the height asks for.

    Args:
        entries: colours and texts, from top to bottom.
        height: of the panel, in pixels. A panel of less than a line of text has no text.

    Returns:
        (height, W, 3) uint8 RGB, as wide as the texts need.
    """
    size = round(min(max(height * TEXT_SHARE, MIN_TEXT), MAX_TEXT))
    letters = font(size, [text for _, text in entries])
    line, gap = round(size * 1.4), size // 2
    rows = max(1, (height - gap // 2) // line)
    columns = [entries[start : start + rows] for start in range(0, len(entries), rows)]
    widths = [max(gap + size + gap + round(letters.getlength(text)) for _, text in column) for column in columns]
    panel = Image.new('RGB', (sum(widths) + gap, height), 'white')
    draw = ImageDraw.Draw(panel)
    left = gap
    for column, width in zip(columns, widths, strict=True):
        for row, (colour, text) in enumerate(column):
            top = gap // 2 + row * line
            if colour is not None:
                draw.rectangle(
                    (left, top, left + size - 1, top + size - 1), fill=tuple(map(int, colour)), outline='black'
                )
            draw.text(
                (left + (size + gap if colour is not None else 0), top + size / 2), text, 'black', letters, anchor='lm'
            )
        left += width
    return np.asarray(panel)
