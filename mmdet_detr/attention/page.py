"""Writes what a DETR looks at in an image as one page with pictures."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.progress import track

from ..evaluation.html import document, linked
from . import pictures
from .compute import ImageAttention
from .pictures import Point
from .portraits import Portraits

DOTS_PER_INCH = 100


class Picture(NamedTuple):
    """A picture of the page."""

    name: str  # of the file, without suffix
    title: str
    text: str
    draw: Callable[[], Figure]


class Choice(NamedTuple):
    """What is drawn; layers and heads count from 1."""

    layer: int | None = None  # of the decoder; the last by default
    encoder_layer: int | None = None  # likewise
    heads: Sequence[int] | None = None  # of the decoder, to draw alone; an empty sequence draws all, None draws none
    points: Sequence[Point] | None = None  # (x, y) in pixels, for the encoder; the centres of the detections by default

    def require(self, attention: ImageAttention) -> None:
        """Raise the UserErrors of :func:`write_page` at once, because drawing and portraits take their time."""
        attention.decoder_layer(self.layer)
        if self.encoder_layer is not None or self.points is not None:
            attention.encoder_layer(self.encoder_layer)
        for head in self.heads or ():
            attention.head(head)
        for point in self.points or ():
            attention.cell_at(*point)
        attention.require_detections()


DEFAULT = Choice()


def write_page(
    attention: ImageAttention,
    out: Path,
    choice: Choice = DEFAULT,
    portraits: Portraits | None = None,
    name: str = 'the image',
) -> list[str]:
    """Write ``index.html`` and its pictures (PNG); files of these names are replaced.

    Args:
        attention: of an image.
        out: folder to write.
        choice: what to draw.
        portraits: of the detector's queries, drawn at the end.
        name: of the image, as the page shows it.

    Returns:
        Names of the files of the pictures.

    Raises:
        UserError: nothing is detected; a layer or a head does not exist; or a point is outside the image.
    """
    choice.require(attention)
    chosen = list(_pictures(attention, choice, portraits))
    figures = [(picture, picture.draw()) for picture in track(chosen, 'drawing')]
    out.mkdir(parents=True, exist_ok=True)
    for old in ('heads', 'encoder', 'mask_head', 'portraits'):  # this page may have none
        (out / f'{old}.png').unlink(missing_ok=True)
    parts = ['<h1>What this detector looks at</h1>', f'<p class="note">{escape(name)}</p>']
    for picture, figure in figures:
        figure.savefig(out / f'{picture.name}.png', dpi=DOTS_PER_INCH)
        parts += [f'<h2>{picture.title}</h2>', f'<p>{picture.text}</p>', linked(f'{picture.name}.png', picture.title)]
    (out / 'index.html').write_text(document('Attention of a detector', parts), encoding='utf-8')
    return [f'{picture.name}.png' for picture in chosen]


def _pictures(attention: ImageAttention, choice: Choice, portraits: Portraits | None) -> Iterator[Picture]:
    yield Picture(
        'decoder',
        'Decoder attention',
        'Each detection has a colour. A cell of the feature map has as much of it as the query of the detection takes '
        'from there. In the paper (figure 6), queries look at the ends of objects, such as heads and legs.',
        partial(pictures.draw_decoder, attention, choice.layer),
    )
    if choice.heads is not None:
        heads = choice.heads or range(1, attention.num_heads + 1)
        yield Picture(
            'heads',
            'Single heads',
            'The same layer of the decoder, each head alone.',
            partial(pictures.draw_heads, attention, heads, choice.layer),
        )
    if attention.num_encoder_layers:
        yield Picture(
            'encoder',
            'Encoder attention',
            'What the cell at a point takes from all cells. In the paper (figure 3), the last encoder layer tells '
            'objects apart already.',
            partial(pictures.draw_encoder, attention, choice.points, choice.encoder_layer),
        )
    if attention.num_mask_heads:
        yield Picture(
            'mask_head',
            'Attention maps of the mask head',
            'The maps from which the mask of each detection is made. Heads and cells share one softmax, so each row '
            'has one scale, and a head without colour is not used for this detection.',
            partial(pictures.draw_mask_head, attention),
        )
    yield Picture(
        'layers',
        'Boxes of the decoder layers',
        'The same queries after each layer, by the one head that all layers share. The colours are those above.',
        partial(pictures.draw_layers, attention),
    )
    if portraits is not None:
        yield Picture(
            'portraits',
            'Portraits of the queries',
            'The centres of all boxes of a query, of any score, in all images (figure 7 of the paper).',
            partial(pictures.draw_portraits, portraits, attention.score_thr),
        )
