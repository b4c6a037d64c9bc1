import copy

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.registry import MODELS
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmdet_detr.models.frozen_norm import FoldedBatchNorm2d, FoldingConv2d, fold_frozen_norms
from mmdet_detr.models.memory_format import prefers_channels_last

FROZEN = {'norm_cfg': {'type': 'BN', 'requires_grad': False}, 'norm_eval': True}
SMALL = {'base_channels': 16, **FROZEN}
BACKBONES = {
    'ResNet-18': {'type': 'ResNet', 'depth': 18, **SMALL},
    'ResNet-50': {'type': 'ResNet', 'depth': 50, 'frozen_stages': 1, **SMALL},
    'ResNet-50, caffe': {'type': 'ResNet', 'depth': 50, 'style': 'caffe', **SMALL},
    'ResNet-50, deep stem': {'type': 'ResNetV1d', 'depth': 50, **SMALL},
    'ResNet-50, checkpointing': {'type': 'ResNet', 'depth': 50, 'with_cp': True, **SMALL},
    'DC5': {'type': 'mmdet_detr.ResNetDC5', 'depth': 50, **SMALL},
    'ResNeXt': {'type': 'ResNeXt', 'depth': 50, 'groups': 4, 'base_width': 4, **SMALL},
    'RegNetX': {'type': 'RegNet', 'arch': 'regnetx_400mf', **FROZEN},
    'Res2Net': {'type': 'Res2Net', 'depth': 50, 'scales': 4, 'base_width': 6, 'base_channels': 16, **FROZEN},
    'trained scale and shift': {
        'type': 'ResNet',
        'depth': 18,
        'base_channels': 16,
        'norm_cfg': {'type': 'BN'},
        'norm_eval': True,
    },
}


def built(config: dict) -> nn.Module:
    """A backbone with random weights and statistics in its batch norms, so that they change their input."""
    torch.manual_seed(0)
    backbone = MODELS.build(config)
    for norm in (module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)):
        for values in (norm.weight.data, norm.running_var):
            values.uniform_(0.5, 1.5)
        for values in (norm.bias.data, norm.running_mean):
            values.normal_(0, 0.3)
    backbone.train()  # not chained: mmdet's method returns None
    return backbone


def evaluated(backbone: nn.Module) -> nn.Module:
    backbone.eval()
    return backbone


def folded(backbone: nn.Module) -> nn.Module:
    backbone = copy.deepcopy(backbone)
    fold_frozen_norms(backbone)
    return backbone.to(memory_format=torch.channels_last) if prefers_channels_last(backbone) else backbone


def assert_equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-5) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def count_of_batch_norms(backbone: nn.Module, images: Tensor) -> int:
    with torch.no_grad(), torch.profiler.profile() as profiler:
        backbone(images)
    return sum(event.count for event in profiler.key_averages() if event.key == 'aten::batch_norm')


@pytest.mark.parametrize('name', BACKBONES)
def test_values_and_gradients_stay(name):
    theirs = built(BACKBONES[name])
    ours = folded(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.randn(2, 3, 64, 96)
    calls = count_of_batch_norms(ours, images)
    assert calls < 0.6 * count_of_batch_norms(theirs, images)
    outputs = [model(images.clone().requires_grad_()) for model in (ours, theirs)]
    assert_equal(*outputs)
    for output in outputs:
        sum((x * torch.linspace(0, 1, x.shape[-1])).mean() for x in output).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert (parameter.grad is None) == (gradients[name] is None), name
        if parameter.grad is not None:
            assert_equal((parameter.grad,), (gradients[name],), 1e-4)
    with torch.no_grad():
        assert_equal(evaluated(ours)(images), evaluated(theirs)(images))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module, Tensor]:
    theirs = built(BACKBONES['ResNet-18'])
    return evaluated(folded(theirs)), evaluated(theirs), torch.randn(1, 3, 64, 64)


def test_norms_that_learn_are_left_alone():
    theirs = built({'type': 'ResNet', 'depth': 18, 'base_channels': 16, 'norm_cfg': {'type': 'BN'}, 'norm_eval': False})
    ours, images = folded(theirs), torch.randn(2, 3, 64, 64)
    assert_equal(ours(images), theirs(images))
    assert_equal((ours.bn1.running_mean,), (theirs.bn1.running_mean,))
    with torch.no_grad():
        assert_equal(evaluated(ours)(images), evaluated(theirs)(images))
    ours.train()
    theirs.train()
    assert_equal(ours(images), theirs(images))


@torch.no_grad()
def test_weights_that_change_count(pair):
    """Folded weights follow changes in place, by loading, of the type, and through ``data`` (mmengine's EMAHook)."""
    ours, theirs, images = pair
    ours(images)
    for model in (ours, theirs):
        model.bn1.running_mean.add_(1.0)
        model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()})
        for parameter in model.parameters():
            parameter.data.copy_(parameter.data * 0.9)
    assert_equal(ours(images), theirs(images))
    with torch.inference_mode():
        assert_equal(ours(images), theirs(images))
    assert_equal(ours.double()(images.double()), theirs.double()(images.double()), 1e-10)


def test_training_with_checkpointing_goes_the_same_way():
    theirs = built({**BACKBONES['ResNet-18'], 'with_cp': True, 'frozen_stages': 0})
    ours, images = folded(theirs), torch.randn(2, 3, 64, 64)
    for model in (ours, theirs):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(4):
            optimizer.zero_grad()
            model(images)[-1].square().mean().backward()
            optimizer.step()
        model.eval()
    assert_equal(ours(images), theirs(images), 1e-3)


@torch.no_grad()
def test_parts_may_be_replaced(pair):
    ours, theirs, images = pair
    expected = theirs(images)
    assert_equal(ours(images), expected)
    assert_equal(copy.deepcopy(ours)(images), expected)
    fused = fuse_conv_bn(copy.deepcopy(ours))
    assert isinstance(fused.bn1, nn.Identity)
    assert_equal(fused(images), expected)
    replaced = copy.deepcopy(ours)
    replaced.conv1 = copy.deepcopy(theirs.conv1)
    assert_equal(replaced(images), expected)
    replaced.bn1 = copy.deepcopy(theirs.bn1)
    assert_equal(replaced(images), expected)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(ours))
    assert not any(isinstance(module, FoldedBatchNorm2d) for module in synchronised.modules())
    assert_equal(evaluated(revert_sync_batchnorm(synchronised))(images), expected)


@torch.no_grad()
def test_bfloat16_is_closer_folded_than_not(pair):
    ours, theirs, images = pair
    exact = theirs(images)[-1]
    with torch.autocast('cpu', torch.bfloat16):
        errors = [(model(images)[-1].float() - exact).norm() / exact.norm() for model in (ours, theirs)]
    assert errors[0] < max(1.2 * errors[1], 0.01)


def test_only_resnets_of_our_detr_are_changed():
    detr = {
        'type': 'mmdet_detr.DETR',
        'neck': {'type': 'mmdet_detr.TransformerNeck', 'in_channels': 64, 'embed_dims': 16, 'num_heads': 2},
        'bbox_head': {'type': 'mmdet_detr.DETRHead', 'num_classes': 2, 'embed_dims': 16},
    }
    mobile = {'type': 'MobileNetV2', 'out_indices': (2,)}
    for backbone, folds in ((mobile, False), (BACKBONES['ResNet-18'], True)):
        model = MODELS.build({**detr, 'backbone': backbone})
        assert any(isinstance(module, FoldingConv2d) for module in model.modules()) == folds


def test_toy_widths_stay_contiguous():
    """In channels last, the backward pass of narrow strided 1x1 convolutions crashes the process."""
    for channels, expected in ((8, False), (16, True)):
        backbone = MODELS.build({'type': 'ResNet', 'depth': 18, 'base_channels': channels})
        assert prefers_channels_last(backbone) is expected
    assert prefers_channels_last(MODELS.build({'type': 'MobileNetV2'}))
