import copy

import pytest
import torch
from helpers import padded_batch, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmdet_detr.engine import Muon, muon
from mmdet_detr.errors import ConfigError
from mmdet_detr.models import MaskHead

WRAPPER = {
    'constructor': 'mmdet_detr.MuonConstructor',
    'optimizer': {'type': 'mmdet_detr.Muon', 'lr': 1e-3, 'weight_decay': 1e-4},
    'muon': {'lr': 0.02},
}


@pytest.mark.parametrize('shape', [(8, 8), (4, 20), (20, 4)])
def test_directions_keep_singular_vectors_and_level_singular_values(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    got = muon.orthogonal(matrices)
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    levelled = torch.linalg.svdvals(got)
    kept = values > 0.05 * values[:, :1]  # Five steps do not lift smaller ones to 0.7.
    assert 0.6 < levelled.flip(1).sort(1).values[kept.flip(1)].min() < levelled.max() < 1.3
    projected = u.mT @ got @ vh.mT
    torch.testing.assert_close(projected, torch.diag_embed(projected.diagonal(dim1=1, dim2=2)), atol=1e-4, rtol=0)


def test_a_step_equals_the_one_of_pytorch():
    """PyTorch's Muon computes in bfloat16, so values agree to its accuracy."""
    if not hasattr(torch.optim, 'Muon'):
        pytest.skip('this PyTorch has no Muon')
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.zeros(24, 8)) for _ in range(2))
    with torch.no_grad():
        ours.copy_(torch.randn(24, 8))
        theirs.copy_(ours)
    optimizers = (
        Muon([{'params': [ours], 'blocks': 1, 'momentum': 0.95, 'lr': 0.02, 'weight_decay': 0.01}]),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.01, momentum=0.95, adjust_lr_fn='original'),
    )
    for _ in range(3):
        gradient = torch.randn(24, 8)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_blocks_and_convolutions_are_matrices():
    """Three blocks move as three matrices of their own, a convolution as (out, in * k * k)."""
    torch.manual_seed(0)
    stacked, convolution = nn.Parameter(torch.zeros(12, 4)), nn.Parameter(torch.zeros(6, 2, 3, 3))
    stacked.grad, convolution.grad = torch.randn(12, 4), torch.randn(6, 2, 3, 3)
    settings = {'momentum': 0.0, 'lr': 1.0, 'weight_decay': 0.0}
    Muon([{'params': [stacked], 'blocks': 3, **settings}, {'params': [convolution], 'blocks': 1, **settings}]).step()
    for part, gradient in zip(stacked.chunk(3), stacked.grad.chunk(3), strict=True):
        torch.testing.assert_close(-part, muon.orthogonal(gradient[None])[0])
    torch.testing.assert_close(-convolution.flatten(1), muon.orthogonal(convolution.grad.flatten(1)[None])[0])


def test_other_groups_move_as_with_adamw():
    torch.manual_seed(0)
    first, second = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    matrix = nn.Parameter(torch.ones(3, 3))
    group = {'params': [matrix], 'blocks': 1, 'momentum': 0.9}
    optimizers = Muon([{'params': [first]}, group], lr=0.1), torch.optim.AdamW([second], lr=0.1, foreach=True)
    for _ in range(3):
        first.grad = torch.randn(5)
        second.grad, matrix.grad = first.grad.clone(), torch.randn(3, 3)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(first, second)
    assert not torch.equal(matrix, torch.ones(3, 3))


def test_hidden_matrices_of_a_detr():
    """Attention, feed-forward networks, projection, box branch and convolutions; no norm, query, class or stem."""
    config = tiny_detr_config()
    config.backbone.frozen_stages = 1
    model = MODELS.build(config)
    optimizer = build_optim_wrapper(
        model, {**WRAPPER, 'paramwise_cfg': {'custom_keys': {'backbone': {'lr_mult': 0.1}}}}
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    of = {names[p]: group for group in optimizer.optimizer.param_groups for p in group['params']}
    assert of.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {name: group['blocks'] for name, group in of.items() if 'blocks' in group}
    assert {name for name, blocks in matrices.items() if blocks == 3} == {
        name for name in of if name.endswith('in_proj_weight')
    }
    parts = ('neck.encoder.', 'neck.decoder.')
    expected = {name for name in of if name.startswith(parts) and model.get_parameter(name).dim() == 2}
    expected |= {'neck.input_proj.weight', *(f'bbox_head.bbox_embed.layers.{i}.weight' for i in range(2))}
    expected |= {name for name in of if name.startswith('backbone.') and model.get_parameter(name).dim() == 4}
    assert set(matrices) == expected
    assert of['neck.input_proj.weight']['lr'] == pytest.approx(0.02)
    assert of['backbone.layer2.0.conv1.weight']['lr'] == pytest.approx(0.002)
    assert of['neck.query_embed.weight']['lr'] == pytest.approx(1e-3)


def test_hidden_matrices_of_a_mask_head():
    head = MaskHead(in_channels=(8,), embed_dims=16, num_heads=2)
    names = {parameter: name for name, parameter in head.named_parameters()}
    expected = ('bbox_attention.q_linear', 'bbox_attention.k_linear', 'adapter1', 'lay1', 'lay2', 'lay3')
    assert {names[matrix]: blocks for matrix, blocks in muon.hidden_matrices(head, backbone=True)} == {
        f'{name}.weight': 1 for name in expected
    }


def test_a_pretrained_backbone_can_be_left_to_adamw():
    wrapper = {**WRAPPER, 'muon': {'backbone': False}}
    model = MODELS.build(tiny_detr_config())
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    matrices = {id(p) for group in optimizer.param_groups if 'blocks' in group for p in group['params']}
    assert not [name for name, p in model.named_parameters() if id(p) in matrices and name.startswith('backbone')]
    assert matrices


def test_training_goes_on_from_a_state_dict():
    torch.manual_seed(0)
    model = MODELS.build(tiny_detr_config())
    images, samples = padded_batch()

    def step(model, wrapper):
        losses = model(images, copy.deepcopy(samples), mode='loss')
        wrapper.update_params(model.parse_losses(losses)[0])

    wrapper = build_optim_wrapper(model, WRAPPER)
    step(model, wrapper)
    resumed = copy.deepcopy(model)
    other = build_optim_wrapper(resumed, WRAPPER)
    other.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    step(model, wrapper)
    step(resumed, other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_sharded_matrices_are_refused(monkeypatch):
    flat = nn.Parameter(torch.zeros(12))
    flat.grad = torch.ones(12)
    with pytest.raises(ConfigError, match='sharded'):
        Muon([{'params': [flat], 'blocks': 1, 'momentum': 0.9}]).step()
    monkeypatch.setattr(muon, 'FullyShardedDataParallel', nn.Conv2d)
    with pytest.raises(ConfigError, match='FSDP'):
        build_optim_wrapper(MODELS.build(tiny_detr_config()), WRAPPER)


def test_hooks_of_a_step_run_once():
    """Also where AdamW has been used in the same process, and without any parameter for AdamW."""
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    matrix = nn.Parameter(torch.ones(3, 3))
    matrix.grad = torch.ones(3, 3)
    optimizer = Muon([{'params': [matrix], 'blocks': 1, 'momentum': 0.9}])
    calls = []
    optimizer.register_step_pre_hook(lambda optimizer, *arguments: calls.append(len(optimizer.param_groups)))
    optimizer.step()
    assert calls == [1]


@pytest.mark.parametrize('optimizer', [{}, {'lr': 0.0}, {'weight_decay': 0.0}, {'lr': 1e-3, 'weight_decay': 0.1}])
def test_matrices_keep_their_settings_beside_any_of_adamw(optimizer):
    wrapper = {**WRAPPER, 'optimizer': {'type': 'mmdet_detr.Muon', **optimizer}}
    built = build_optim_wrapper(MODELS.build(tiny_detr_config()), wrapper).optimizer
    for group in built.param_groups:
        expected = (
            (0.02, 0.01) if 'blocks' in group else (optimizer.get('lr', 1e-3), optimizer.get('weight_decay', 1e-2))
        )
        assert (group['lr'], group['weight_decay']) == expected


def test_another_optimizer_is_an_error():
    wrapper = {**WRAPPER, 'optimizer': {'type': 'AdamW', 'lr': 1e-3}}
    with pytest.raises(ConfigError, match='not AdamW'):
        build_optim_wrapper(MODELS.build(tiny_detr_config()), wrapper)


def test_the_fused_rule_is_an_error():
    with pytest.raises(ConfigError, match='fused'):
        Muon([nn.Parameter(torch.ones(2))], fused=True)


def test_an_unknown_setting_is_an_error():
    with pytest.raises(ConfigError, match='rate'):
        build_optim_wrapper(nn.Linear(1, 1), {**WRAPPER, 'muon': {'rate': 1}})
