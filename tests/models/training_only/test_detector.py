"""The parts for training only, in whole detectors."""

import copy
from collections.abc import Callable

import pytest
import torch
from helpers import make_sample, padded_batch, random_sample, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from mmdet_detr.errors import ConfigError
from mmdet_detr.models import TransformerNeck

PARTS = {
    'training_queries': [
        {'type': 'mmdet_detr.QueryGroups', 'num_groups': 2, 'num_queries': 9},
        {'type': 'mmdet_detr.DenoisingQueries', 'num_sets': 2},
    ],
    'dense_supervision': {'type': 'mmdet_detr.DenseSupervision'},
}
PREFIXES = ('group.', 'dn.', 'dense.')
SIGMOID = {
    'type': 'mmdet_detr.BipartiteMatchLoss',
    'loss_cls': {'type': 'FocalLoss', 'use_sigmoid': True, 'gamma': 2.0, 'alpha': 0.25, 'loss_weight': 2.0},
    'assigner': {'type': 'mmdet_detr.HungarianAssigner', 'match_costs': [{'type': 'FocalLossCost', 'weight': 2.0}]},
}


def built(config: Config) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(config).train()  # so that frozen norms are


def with_parts(**neck: object) -> Config:
    config = tiny_detr_config(**neck)
    config.bbox_head.update(copy.deepcopy(PARTS))
    return config


def pair() -> tuple[nn.Module, nn.Module]:
    """A DETR without the parts, and one with them and the same weights."""
    plain, full = built(tiny_detr_config()), built(with_parts())
    report = full.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith('bbox_head.training_queries.') for name in report.missing_keys)
    assert not report.unexpected_keys
    return plain, full


def test_the_network_is_untouched():
    """Losses of the network's own queries, predictions and raw outputs are those of a DETR without the parts."""
    torch.manual_seed(1)
    images, samples = padded_batch()
    plain, full = pair()
    losses = full(images, copy.deepcopy(samples), mode='loss')
    for name, loss in plain(images, copy.deepcopy(samples), mode='loss').items():
        torch.testing.assert_close(losses.pop(name), loss, rtol=1e-5, atol=1e-5)
    assert sorted(losses) == sorted(p + name for p in PREFIXES for name in ('loss_cls', 'loss_bbox', 'loss_iou'))
    full.bbox_head.training_sets = full.bbox_head.dense_supervision.loss = None  # Nothing of them runs.
    for queries in full.bbox_head.training_queries:
        queries.forward = None
    for model in (plain.eval(), full.eval()):
        model.results = model(images, copy.deepcopy(samples), mode='predict')
        model.outputs = model(images, copy.deepcopy(samples), mode='tensor')
    for left, right in zip(plain.results, full.results, strict=True):
        torch.testing.assert_close(left.pred_instances.bboxes, right.pred_instances.bboxes)
    torch.testing.assert_close(plain.outputs, full.outputs)


def test_sets_do_not_see_each_other():
    """Noise in one copy of the objects changes the hidden states of this copy alone."""
    torch.manual_seed(1)
    images, samples = padded_batch()
    model = built(with_parts())
    groups, noised = model.bbox_head.training_sets(samples)
    feats = model.extract_feat(images)
    before = model.neck(feats, samples, [groups, noised])
    pos = noised.pos.clone()
    pos[:, 1] += 1
    after = model.neck(feats, samples, [groups, noised._replace(pos=pos)])
    torch.testing.assert_close(before.hidden, after.hidden)
    torch.testing.assert_close(before.training_hidden[0], after.training_hidden[0])
    torch.testing.assert_close(before.training_hidden[1][:, :, 0], after.training_hidden[1][:, :, 0])
    assert (before.training_hidden[1][:, :, 1] - after.training_hidden[1][:, :, 1]).abs().max() > 0.01


def test_padded_objects_are_not_seen():
    """An image's denoised objects are the same beside an image with more objects."""
    torch.manual_seed(1)
    few, many = random_sample((64, 64), None, 2, 5), random_sample((64, 64), None, 6, 5)
    config = with_parts()
    config.bbox_head.training_queries = [{'type': 'mmdet_detr.DenoisingQueries', 'box_noise': 0, 'label_noise': 0}]
    model = built(config)
    images = torch.randn(2, 3, 64, 64)
    both, alone = (
        model.neck(model.extract_feat(images[: len(samples)]), samples, model.bbox_head.training_sets(samples))
        for samples in ([few, many], [few])
    )
    torch.testing.assert_close(both.training_hidden[0][:, :1, :, :2], alone.training_hidden[0], rtol=1e-4, atol=1e-4)


FCOS = {
    'type': 'FCOS',
    'data_preprocessor': {'type': 'DetDataPreprocessor', 'pad_size_divisor': 1},
    'backbone': {**tiny_detr_config().backbone, 'out_indices': (2, 3)},
    'neck': {'type': 'FPN', 'in_channels': [32, 64], 'out_channels': 32, 'num_outs': 2},
    'bbox_head': {
        **tiny_detr_config().bbox_head,
        'transformer': {**tiny_detr_config().neck, 'in_channels': 32, 'levels': (0, 1)},
        **PARTS,
    },
}
DETECTORS = {
    'DETR': with_parts(),
    'recomputed': with_parts(with_cp=True),
    'sigmoid': {**with_parts(), 'bbox_head': {**with_parts().bbox_head, 'loss': SIGMOID}},
    'levels of another detector': FCOS,
    'auxiliary head': {
        'type': 'mmdet_detr.AuxiliaryHeadDetector',
        'detector': tiny_detr_config(),
        'aux_head': {**FCOS['bbox_head'], 'transformer': tiny_detr_config().neck},
    },
}


@pytest.mark.parametrize('name', DETECTORS)
@pytest.mark.parametrize('objects', ['some', 'none', 'dropped', 'crowd'])
def test_a_step_reaches_every_parameter(name, objects):
    """Losses are finite, and every parameter has a gradient, as DDP demands."""
    torch.manual_seed(1)
    model = built(Config(dict(copy.deepcopy(DETECTORS[name]))))
    images, samples = padded_batch()
    if objects == 'none':
        samples = [make_sample(sample.img_shape, (96, 128)) for sample in samples]
    elif objects == 'dropped':
        boxes = torch.tensor([[9.0, 9.0, 5.0, 20.0]])
        samples = [make_sample(sample.img_shape, (96, 128), boxes) for sample in samples]
    elif objects == 'crowd':  # more than queries
        samples = [random_sample(sample.img_shape, (96, 128), 40, 5) for sample in samples]
    losses = model(images, samples, mode='loss')
    loss, logged = model.parse_losses(losses)
    loss.backward()
    assert all(torch.isfinite(value).all() for value in logged.values())
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


def test_recomputing_layers_changes_nothing():
    torch.manual_seed(1)
    images, samples = padded_batch()
    gradients = []
    for name in ('DETR', 'recomputed'):
        model = built(copy.deepcopy(DETECTORS[name]))
        torch.manual_seed(2)  # the noise
        model.parse_losses(model(images, copy.deepcopy(samples), mode='loss'))[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(*gradients)


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_compiling'), reason='PyTorch 2.1 does not compile it')
def test_a_compiled_transformer_trains_the_same():
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(1)
    images, samples = padded_batch()
    plain, compiled = built(with_parts(dropout=0.0)), built(with_parts(dropout=0.0, compile={'backend': backend}))
    compiled.load_state_dict(plain.state_dict())
    losses = []
    for model in (plain, compiled):
        torch.manual_seed(2)  # of the noise
        losses.append(model(images, copy.deepcopy(samples), mode='loss'))
    torch.testing.assert_close(*losses)
    assert graphs
    torch._dynamo.reset()


def test_bfloat16():
    torch.manual_seed(1)
    images, samples = padded_batch()
    model = built(with_parts())
    results = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            results.append(model(images, copy.deepcopy(samples), mode='loss'))
    for name in (name for name in results[0] if name.startswith(PREFIXES)):
        assert results[1][name].dtype == torch.float32
        torch.testing.assert_close(results[1][name], results[0][name], rtol=0.05, atol=0.05)


def test_two_parts_of_a_kind_are_both_learnt():
    config = with_parts()
    config.bbox_head.training_queries = [{'type': 'mmdet_detr.DenoisingQueries', 'box_noise': n} for n in (0.2, 0.8)]
    torch.manual_seed(1)
    images, samples = padded_batch()
    model = built(config)
    losses = model(images, samples, mode='loss')
    assert {'dn.loss_cls', 'dn2.loss_cls'} <= losses.keys()
    model.parse_losses(losses)[0].backward()
    assert all(parameter.grad is not None for parameter in model.bbox_head.training_queries.parameters())


def test_sets_that_were_not_decoded_are_an_error():
    images, samples = padded_batch()
    model = built(with_parts())
    with pytest.raises(ConfigError, match='decoded 0 of the 2 entries'):
        model.bbox_head.loss(model.forward_transformer(images, samples)[1], samples)


def test_a_transformer_without_sets_still_serves_a_plain_head():
    class Old(TransformerNeck):
        def forward(self, feats, batch_data_samples=None):
            return super().forward(feats, batch_data_samples)

    config = Config(dict(copy.deepcopy(FCOS)))
    config.bbox_head.transformer.type = Old
    images, samples = padded_batch()
    with pytest.raises(ConfigError, match='takes training_sets, not Old'):
        built(config)
    for name in PARTS:
        del config.bbox_head[name]
    assert built(config)(images, samples, mode='loss')['loss_cls'] > 0


def test_a_plain_head_leaves_parts_out_on_other_detectors_too():
    full = built(Config(dict(copy.deepcopy(FCOS))))
    config = Config(dict(copy.deepcopy(FCOS)))
    for name in PARTS:
        del config.bbox_head[name]
    report = built(config).load_state_dict(full.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert not report.missing_keys


def test_a_neck_that_takes_no_sets_is_an_error():
    class Old(TransformerNeck):
        def forward(self, feats, batch_data_samples):
            return super().forward(feats, batch_data_samples)

    config = with_parts()
    config.neck.type = Old
    with pytest.raises(ConfigError, match='takes training_sets, not Old'):
        built(config)
