"""Colours of classes."""

import colorsys
from collections.abc import Sequence

import numpy as np

Colour = tuple[int, int, int]  # RGB, 0 to 255

FIRST: Colour = (220, 20, 60)
SATURATIONS_AND_VALUES = ((0.9, 0.95), (1.0, 0.6), (0.45, 1.0))  # none near black, white or grey
HUES = 36


def complete_palette(palette: Sequence[Sequence[int]], count: int) -> list[Colour]:
    """The colours of a palette (RGB, 0 to 255), and as many more as ``count`` classes need, each unlike the others."""
    given = [(int(red), int(green), int(blue)) for red, green, blue in palette]
    return given + _distinct(count - len(given), given)


def _distinct(count: int, taken: list[Colour]) -> list[Colour]:
    """So many colours, each as far as possible from those before it."""
    if count <= 0:
        return []
    if not taken:
        return [FIRST, *_distinct(count - 1, [FIRST])]
    hues = max(HUES, len(taken) + count)
    candidates = np.array(
        [colorsys.hsv_to_rgb(hue / hues, *rest) for hue in range(hues) for rest in SATURATIONS_AND_VALUES]
    )
    candidates = (255 * candidates).round().astype(int)
    distances = np.min([_distance(candidates, colour) for colour in taken], axis=0)
    found: list[Colour] = []
    for _ in range(count):
        red, green, blue = candidates[distances.argmax()].tolist()
        found.append((red, green, blue))
        distances = np.minimum(distances, _distance(candidates, found[-1]))
    return found


def _distance(colours: np.ndarray, colour: Colour) -> np.ndarray:
    """How different colours (N, 3) look from one: weighted by the mean of the reds, as eyes do about."""
    red = (colours[:, 0] + colour[0]) / 512
    weights = np.stack([2 + red, np.full_like(red, 4), 3 - red], axis=1)
    return (weights * (colours - np.array(colour)) ** 2).sum(axis=1)
