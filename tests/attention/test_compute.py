"""The maps hold the weights of the attentions, equal to PyTorch's own."""

from bisect import bisect_right
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from attention_images import IMAGE
from foreign import randomise
from helpers import ROOT, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from mmdet_detr.attention import attend
from mmdet_detr.attention.compute import parts_of
from mmdet_detr.errors import ConfigError, UserError
from mmdet_detr.inference import Detector
from mmdet_detr.models.transformer import Attention

TINY = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py'


def pytorch_weights(attention: Attention, query, key, value, mask=None):
    """Weights (B, heads, Q, S) of ``torch.nn.MultiheadAttention`` with the same parameters."""
    width = attention.out_proj.in_features
    theirs = nn.MultiheadAttention(width, attention.num_heads, batch_first=True)
    theirs.load_state_dict(attention.state_dict())
    padding = None if mask is None else ~mask[:, 0, 0]
    with torch.no_grad():
        return theirs.eval()(query, key, value, key_padding_mask=padding, average_attn_weights=False)[1]


@contextmanager
def inputs_of(module):
    calls = []
    handle = module.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    yield calls
    handle.remove()


def plain_map(weights, grid=(8, 12), padded=(64, 96)):
    """Weights (S,) of the cells of an input at the pixels of ``IMAGE``: 48 x 67 pixels of the input are 50 x 70."""
    places = []
    for length, resized, cells, side in zip((50, 70), (48, 67), grid, padded, strict=True):
        first = [cell * side // cells for cell in range(cells)]  # pixel of each cell
        places.append([bisect_right(first, int((at + 0.5) * resized / length)) - 1 for at in range(length)])
    return np.asarray(weights).reshape(grid)[np.ix_(*places)]


@pytest.mark.parametrize('layer', [1, 3])
def test_decoder_equals_pytorch(detector, attention, layer):
    module = detector.model.neck.decoder.layers[layer - 1].multihead_attn
    with inputs_of(module) as calls:
        detector(IMAGE)
    weights = pytorch_weights(module, *calls[0])[0]
    assert weights.shape == (4, 10, 96)
    assert not weights[..., 9:12].any()  # three columns of padding
    for query in (0, 7):
        np.testing.assert_allclose(attention.decoder(query, layer), plain_map(weights[:, query].mean(0)), atol=1e-6)
        np.testing.assert_allclose(attention.decoder(query, layer, 2), plain_map(weights[1, query]), atol=1e-6)
    last = attention.decoder(0, 3)
    assert np.array_equal(attention.decoder(0), last)


def test_encoder_equals_pytorch(detector, attention):
    module = detector.model.neck.encoder.layers[0].self_attn
    with inputs_of(module) as calls:
        detector(IMAGE)
    weights = pytorch_weights(module, *calls[0])[0]
    for x, y, cell in ((0, 0, 0), (69, 49, 5 * 12 + 8), (20, 9.5, 12 + 2)):
        np.testing.assert_allclose(attention.encoder(x, y), plain_map(weights[:, cell].mean(0)), atol=1e-6)
        np.testing.assert_allclose(attention.encoder(x, y, 1, 4), plain_map(weights[3, cell]), atol=1e-6)


def test_mask_head(panoptic_detector, panoptic_attention):
    """One softmax over heads and cells, in plain arithmetic; masks are predicted without padding."""
    unpadded = {'grid': (6, 9), 'padded': (48, 67)}
    found = panoptic_attention
    head = panoptic_detector.model.mask_head.bbox_attention
    with inputs_of(panoptic_detector.model.bbox_head.class_embed) as hidden, inputs_of(head.k_linear) as memory:
        panoptic_detector(IMAGE)
    query = int(found.queries[0])
    state = hidden[0][0].reshape(-1, hidden[0][0].shape[-2], hidden[0][0].shape[-1])[-1, query]
    with torch.no_grad():
        q, k = head.q_linear(state).double(), head.k_linear(memory[0][0][0]).double()
    width = len(q) // head.num_heads
    scores = torch.stack(
        [k[:, i * width : (i + 1) * width] @ q[i * width : (i + 1) * width] for i in range(head.num_heads)]
    )
    scores = scores / width**0.5
    expected = scores.flatten().softmax(0).view_as(scores)
    assert found.num_mask_heads == head.num_heads == 8
    np.testing.assert_allclose(found.mask_weights(query), expected, atol=1e-5)
    np.testing.assert_allclose(found.mask_head(query, 2), plain_map(expected[1], **unpadded), atol=1e-5)
    np.testing.assert_allclose(found.mask_head(query), plain_map(expected.sum(0), **unpadded), atol=1e-5)


def test_detections_are_those_of_the_detector(detector, attention):
    result = detector(IMAGE, 0.5)
    assert 0 < len(attention.queries) < 10
    for name in ('boxes', 'scores', 'labels'):
        np.testing.assert_allclose(getattr(attention.detections, name), getattr(result, name), atol=1e-4)
    assert [len(layer) for layer in attention.layers] == [10, 10, 10]
    assert not np.allclose(attention.layers[0].boxes, attention.layers[2].boxes)
    assert np.array_equal(attention.image, IMAGE)
    assert (attention.size, attention.num_heads, attention.num_encoder_layers) == ((50, 70), 4, 1)


def test_the_network_runs_once_and_rows_alone_are_computed(detector, monkeypatch):
    """The weights of all pairs of cells would need gigabytes at half the stride."""
    attention = attend(detector, IMAGE)
    queries = []
    plain = Attention.weights
    monkeypatch.setattr(Attention, 'weights', lambda *args: queries.append(args[1].shape) or plain(*args))
    monkeypatch.setattr(Attention, 'forward', None)
    attention.encoder(3, 4)
    attention.decoder(5, size=(5, 7))
    assert queries == [(1, 1, 64), (1, 1, 64)]


def test_two_levels_of_another_detector():
    """A head with a transformer of its own on a detector of mmdet; its cells are those of both levels."""
    config = Config.fromfile(TINY)
    tiny = tiny_detr_config()
    neck = dict(tiny.neck, in_channels=[32, 64], levels=(-2, -1))
    config.model = {
        'type': 'mmdet.SingleStageDetector',
        'data_preprocessor': tiny.data_preprocessor,
        'backbone': dict(tiny.backbone, out_indices=(2, 3)),
        'bbox_head': {'type': 'mmdet_detr.DETRHead', 'num_classes': 3, 'embed_dims': 32, 'transformer': neck},
        'test_cfg': {},
    }
    detector = Detector(randomise(MODELS.build(config.model)), config, ('a', 'b', 'c'))
    found = attend(detector, IMAGE, 0)
    assert found.cells.grids == [(4, 5), (2, 3)]
    weights = found.weights.rows('decoder.layers.2.multihead_attn', [1])[0, :, 0].mean(0).numpy()
    fine, coarse = weights[:20].reshape(4, 5), weights[20:].reshape(2, 3)
    got = found.decoder(1)
    assert got[0, 0] == pytest.approx(fine[0, 0] + coarse[0, 0])
    assert got[49, 69] == pytest.approx(fine[3, 4] + coarse[1, 2])
    row = found.weights.rows('encoder.layers.1.self_attn', [19])[0, :, 0].mean(0).numpy()
    assert found.encoder(69, 49)[0, 0] == pytest.approx(row[0] + row[20])
    assert len(found.queries) == 12


def test_what_does_not_exist(attention):
    for call, message in (
        (lambda: attention.decoder(0, 4), 'there is no decoder layer 4: they are 1 to 3'),
        (lambda: attention.decoder(0, 0), 'there is no decoder layer 0'),
        (lambda: attention.decoder(0, 1, 5), 'there is no head 5: they are 1 to 4'),
        (lambda: attention.decoder(10), 'there is no query 10: they are 0 to 9'),
        (lambda: attention.encoder(3, 3, 2), 'there is no encoder layer 2: they are 1 to 1'),
        (lambda: attention.encoder(70, 3), 'the point 70,3 is outside the image of 70 x 50 pixels'),
        (lambda: attention.encoder(3, -1), 'the point 3,-1 is outside'),
        (lambda: attention.mask_head(0), 'the detector has no mask head'),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_no_encoder():
    model = MODELS.build(tiny_detr_config(num_encoder_layers=0))
    config = Config.fromfile(TINY)
    found = attend(Detector(model, config, tuple('abcde')), IMAGE, 0)
    with pytest.raises(UserError, match='the transformer has no encoder layers'):
        found.encoder(3, 3)


def test_the_head_that_predicts():
    """Of two heads; a detector without a DETR head has nothing to draw."""
    tiny = tiny_detr_config(num_encoder_layers=1)
    aux_head = {'type': 'mmdet_detr.DETRHead', 'num_classes': 5, 'embed_dims': 32, 'transformer': tiny.neck}
    wrapper = {'type': 'mmdet_detr.AuxiliaryHeadDetector', 'detector': tiny, 'aux_head': aux_head}
    model = MODELS.build(wrapper)
    assert parts_of(model) == (model.detector.bbox_head, model.detector.neck)
    model.predict_by = 'aux_head'
    assert parts_of(model) == (model.aux_head, model.aux_head.transformer)
    found = attend(Detector(model, Config.fromfile(TINY), tuple('abcde')), IMAGE, 0)
    assert len(found.queries) == 12
    model.aux_head = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r'Linear has no mmdet_detr\.DETRHead'):
        parts_of(model)
