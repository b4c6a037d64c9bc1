"""Panels show the maps in the colours of the detections, and say what they show."""

import numpy as np
import pytest
from attention_images import IMAGE

from mmdet_detr.attention import attend
from mmdet_detr.attention.pictures import (
    LONGEST,
    OPACITY,
    _percent,
    draw_decoder,
    draw_encoder,
    draw_heads,
    draw_layers,
    draw_mask_head,
)
from mmdet_detr.datasets.palette import complete_palette
from mmdet_detr.errors import UserError


def pixels(axis):
    return np.asarray(axis.images[0].get_array())


def heading(figure):
    return figure.texts[0].get_text().split('\n')[0]


def dimmed(image):
    small = image[..., ::-1] / 255
    return (0.3 * small + 0.7 * small.mean(2, keepdims=True)) * 0.6


def box_of(axis, number=0):
    """The corners of a box of an axis; each is drawn twice, white below its colour."""
    patch = axis.patches[2 * number + 1]
    left, top = patch.get_xy()
    return [left, top, left + patch.get_width(), top + patch.get_height()]


def test_decoder(attention):
    figure = draw_decoder(attention)
    count = len(attention.queries)
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == count + 1
    assert heading(figure) == 'What each detection looks at: decoder layer 3 of 3, mean of 4 heads'
    colours = np.array(complete_palette((), count)) / 255
    for index, axis in enumerate(shown[1:]):
        weights = attention.decoder(attention.queries[index])
        opacity = OPACITY * (weights / weights.max())[..., None]
        np.testing.assert_allclose(pixels(axis), (1 - opacity) * dimmed(IMAGE) + opacity * colours[index], atol=1e-6)
        name, score = attention.detections.names[index], attention.detections.scores[index]
        assert axis.get_title().startswith(f'{name} {score:.2f}, peak ')
        np.testing.assert_allclose(box_of(axis), attention.detections.boxes[index], rtol=1e-5)
        np.testing.assert_allclose(axis.patches[1].get_edgecolor()[:3], colours[index])
    assert shown[1].get_title().endswith(f', peak {_percent(attention.decoder(attention.queries[0]).max())}')
    assert len(shown[0].patches) == 2 * count


def test_shares():
    shares = {1.0: '100%', 0.144: '14%', 0.0996: '10.0%', 0.0144: '1.4%', 0.00024: '0.02%', 0.00004: '<0.01%'}
    assert {share: _percent(share) for share in shares} == shares


def test_single_heads(attention):
    figure = draw_heads(attention, [4, 2], layer=1)
    assert len(figure.axes) == 2 * len(attention.queries)
    assert heading(figure) == 'What single heads look at: decoder layer 1 of 3'
    weights = attention.decoder(attention.queries[1], 1, 2)
    opacity = OPACITY * (weights / weights.max())[..., None]
    colour = np.array(complete_palette((), len(attention.queries))[1]) / 255
    np.testing.assert_allclose(pixels(figure.axes[3]), (1 - opacity) * dimmed(IMAGE) + opacity * colour, atol=1e-6)
    assert figure.axes[3].get_title().startswith('head 2, peak ')


def test_encoder_points_and_centres(attention):
    figure = draw_encoder(attention, [(3, 4), (60, 20)])
    assert [axis.get_title().split(' peak')[0] for axis in figure.axes] == ['from 3,4,', 'from 60,20,']
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[60, 20]]
    weights = attention.encoder(60, 20)
    opacity = OPACITY * (weights / weights.max())[..., None]
    colour = np.array(complete_palette((), 2)[1]) / 255
    np.testing.assert_allclose(pixels(figure.axes[1]), (1 - opacity) * dimmed(IMAGE) + opacity * colour, atol=1e-6)
    figure = draw_encoder(attention, head=3)
    boxes = attention.detections.boxes
    dots = [axis.lines[0].get_xydata()[0] for axis in figure.axes if axis.axison]
    np.testing.assert_allclose(dots, (boxes[:, :2] + boxes[:, 2:]) / 2)
    assert heading(figure).endswith('layer 1 of 1, head 3 of 4')


def test_mask_head(panoptic_attention):
    """All heads of a detection have one scale, and the shares of the heads are 100 percent together."""
    figure = draw_mask_head(panoptic_attention)
    query = panoptic_attention.queries[0]
    weights = panoptic_attention.mask_head(query, 2)
    opacity = OPACITY * (weights / panoptic_attention.mask_head(query).max())[..., None]
    count = len(panoptic_attention.queries)
    assert len(figure.axes) == 9 * min(count, 8)
    colour = np.array(complete_palette((), count)[0]) / 255
    np.testing.assert_allclose(pixels(figure.axes[2]), (1 - opacity) * dimmed(IMAGE) + opacity * colour, atol=1e-6)
    shares = [float(axis.get_title().split(': ')[1].split('%')[0].lstrip('<')) for axis in figure.axes[1:9]]
    assert sum(shares) == pytest.approx(100, abs=4)
    assert shares[1] == pytest.approx(100 * panoptic_attention.mask_weights(query)[1].sum(), abs=0.5)


def test_layers(attention):
    figure = draw_layers(attention)
    assert len(figure.axes) == 3
    queries = attention.queries
    for axis, layer in zip(figure.axes, attention.layers, strict=True):
        np.testing.assert_allclose(box_of(axis, 1), layer.boxes[queries[1]], rtol=1e-5)
        dashed = [patch.get_linestyle() == '--' for patch in axis.patches[1::2]]
        assert dashed == (layer.labels != attention.layers[-1].labels)[queries].tolist()
    assert figure.axes[2].get_title() == f'layer 3: score {attention.detections.scores.mean():.2f}, IoU 1.00'
    np.testing.assert_allclose(pixels(figure.axes[0]), IMAGE[..., ::-1] / 255)


def test_large_images_are_drawn_smaller(detector):
    large = IMAGE.repeat(16, 0).repeat(16, 1)
    figure = draw_decoder(attend(detector, large, 0.1))
    assert max(pixels(figure.axes[0]).shape) == LONGEST
    assert figure.axes[0].get_xlim() == (0, 70 * 16)


def test_nothing_detected(detector):
    nothing = attend(detector, IMAGE, 1.0)
    best = nothing.layers[-1].scores.max()
    for draw in (draw_decoder, draw_layers, draw_encoder):
        with pytest.raises(UserError, match=f'nothing is detected: the best score is {best:.4g}, the threshold 1'):
            draw(nothing)
    assert len(draw_encoder(nothing, [(3, 4)]).axes) == 1
