"""Fonts for class names in any writing."""

from collections.abc import Iterable, Sequence
from functools import cache

from matplotlib import rc_context
from matplotlib.font_manager import findfont, fontManager, get_font
from PIL import ImageFont

DEFAULT = 'DejaVu Sans'  # matplotlib brings it along
FALLBACKS = (  # of letters that the default lacks: those that systems have, as far as they are installed
    'Noto Sans CJK SC',
    'Noto Sans CJK JP',
    'Source Han Sans SC',
    'WenQuanYi Zen Hei',
    'WenQuanYi Micro Hei',
    'Droid Sans Fallback',
    'Microsoft YaHei',
    'SimHei',
    'PingFang SC',
    'Hiragino Sans GB',
    'Hiragino Sans',
    'Yu Gothic',
    'Malgun Gothic',
    'Apple SD Gothic Neo',
    'Noto Sans Devanagari',
    'Noto Sans Thai',
    'Arial Unicode MS',
)


def font_file(texts: Iterable[str]) -> str:
    """The first font that has the most letters of texts, DejaVu Sans before the others that are installed."""
    letters = _letters(texts)
    return max(map(_file, _families()), key=lambda file: len(letters & _letters_in(file)))


def font(size: int, texts: Iterable[str] = ()) -> ImageFont.FreeTypeFont:
    """Pillow's font for texts, of a size in pixels."""
    return _font(font_file(texts), size)


def missing_letters(texts: Iterable[str]) -> str:
    """Letters of texts that none of the fonts has; pictures show boxes in their place."""
    known = frozenset[int]().union(*map(_letters_in, map(_file, _families())))
    return ''.join(map(chr, sorted(_letters(texts) - known)))


def _letters(texts: Iterable[str]) -> set[int]:
    return {ord(letter) for text in texts for letter in text if not letter.isspace()}


@cache
def _families() -> Sequence[str]:
    installed = set(fontManager.get_font_names())
    return (DEFAULT, *(name for name in FALLBACKS if name in installed))


@cache
def _file(family: str) -> str:
    return findfont(family)


@cache
def _letters_in(file: str) -> frozenset[int]:
    return frozenset(get_font(file).get_charmap())


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


# Decorates what draws class names with matplotlib: they are no formulas, whatever dollar signs they have.
draws_names = rc_context({'text.parse_math': False, 'font.family': list(_families())})
