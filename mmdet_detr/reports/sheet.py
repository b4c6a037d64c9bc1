"""A sheet of pairs of pictures: the truth on the left, the detections on the right, and a legend above."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import supervision
from PIL import Image, ImageDraw, ImageFont

from ..datasets.palette import Colour
from ..visualization.fonts import font, font_file

TEXT, LINE = 14, 22  # height of letters and of a line, in pixels
LABEL = 11  # height of the letters on boxes
PAIR_GAP, GAP = 6, 22  # between the pictures of a pair, and between pairs
MAX_IN_LEGEND = 10  # classes; of more, the colours could not be told apart, so that boxes have names
HEADINGS = ('truth', 'detections')


class Pair(NamedTuple):
    """Two pictures (H, W, 3) uint8 RGB of one size, and the name of their file."""

    name: str
    truth: np.ndarray
    found: np.ndarray


def draw_boxes(
    image: np.ndarray, objects: supervision.Detections, palette: list[Colour], texts: list[str]
) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB with boxes, masks if there are, and texts that keep out of each other's way."""
    colours = supervision.ColorPalette([supervision.Color(*colour) for colour in palette])
    readable = supervision.ColorPalette([_text_colour(colour) for colour in palette])
    picture = np.ascontiguousarray(image[..., ::-1])  # supervision draws in BGR
    if objects.mask is not None:
        picture = supervision.MaskAnnotator(colours).annotate(picture, objects)
    picture = supervision.BoxAnnotator(colours, thickness=2).annotate(picture, objects)
    labels = supervision.RichLabelAnnotator(
        colours, text_color=readable, font_path=font_file(texts), font_size=LABEL, text_padding=2, smart_position=True
    )
    picture = labels.annotate(picture, objects, texts) if any(texts) else picture
    return np.ascontiguousarray(picture[..., ::-1])


def _text_colour(colour: Colour) -> supervision.Color:
    red, green, blue = colour
    return supervision.Color.BLACK if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else supervision.Color.WHITE


def sheet(pairs: Sequence[Pair], columns: int, classes: Sequence[tuple[str, Colour]], score: str) -> np.ndarray:
    """Pairs row by row on white: headings above each column, a file name above each pair, the legend on top.

    Args:
        pairs: at least one.
        columns: pairs in a row, of which there are as many as needed.
        classes: names and colours of the legend.
        score: what the heading says of the detections, such as ``'score ≥ 0.5'``.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    columns = min(columns, len(pairs))
    letters = font(TEXT, [*(name for name, _ in classes), *(pair.name for pair in pairs)])
    width = max(pair.truth.shape[1] for pair in pairs)
    tops = [
        LINE + max(pair.truth.shape[0] for pair in pairs[start : start + columns])
        for start in range(0, len(pairs), columns)
    ]
    full = columns * (2 * width + PAIR_GAP + GAP) - GAP
    legend = _legend_places([name for name, _ in classes], letters, full)
    head = LINE * (1 + max((row for row, _ in legend), default=-1)) + (8 if legend else 0)
    page = Image.new('RGB', (full + 2 * GAP, head + LINE + sum(tops) + GAP * (len(tops) + 1)), 'white')
    draw = ImageDraw.Draw(page)
    for (name, colour), (row, left) in zip(classes, legend, strict=True):
        top = GAP // 2 + row * LINE
        draw.rectangle((GAP + left, top + 3, GAP + left + TEXT, top + 3 + TEXT), colour, 'black')
        draw.text((GAP + left + TEXT + 6, top + LINE / 2), name, 'black', letters, anchor='lm')
    head += GAP // 2
    for column in range(columns):
        left = GAP + column * (2 * width + PAIR_GAP + GAP)
        for at, heading in zip((0, width + PAIR_GAP), (HEADINGS[0], f'{HEADINGS[1]}, {score}'), strict=True):
            draw.text((left + at, head + LINE / 2), _cut(heading, letters, width), 'black', letters, anchor='lm')
    for number, pair in enumerate(pairs):
        row, column = divmod(number, columns)
        left = GAP + column * (2 * width + PAIR_GAP + GAP)
        top = head + LINE + sum(tops[:row]) + GAP * row
        draw.text((left, top + LINE / 2), _cut(pair.name, letters, 2 * width), '#666666', letters, anchor='lm')
        page.paste(Image.fromarray(pair.truth), (left, top + LINE))
        page.paste(Image.fromarray(pair.found), (left + width + PAIR_GAP, top + LINE))
    return np.asarray(page)


def _legend_places(names: list[str], letters: ImageFont.FreeTypeFont, width: int) -> list[tuple[int, int]]:
    """Row and left edge of each entry, in as many rows as the width asks for."""
    places, row, left = [], 0, 0
    for name in names:
        needed = TEXT + 6 + math.ceil(letters.getlength(name)) + 18
        if left and left + needed > width:
            row, left = row + 1, 0
        places.append((row, left))
        left += needed
    return places


def _cut(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """The end of a text that is too long: names of files differ there."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(f'...{text}') > width:
        text = text[1:]
    return f'...{text}'
