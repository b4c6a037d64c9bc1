"""Copies of every module compute as it does, whatever the process or the module did before."""

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from inspect import signature

import pytest
import torch
from helpers import make_sample, padded_batch, tiny_detr_config
from masks import batch, masks_config
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmdet_detr.models import DETR

FPN = {'type': 'FPN', 'in_channels': [16, 32, 64], 'out_channels': 32, 'num_outs': 3}
Call = Callable[[nn.Module], object]


def training_parts() -> dict:
    config = tiny_detr_config()
    config.bbox_head.training_queries = [
        {'type': 'mmdet_detr.QueryGroups', 'num_queries': 5},
        {'type': 'mmdet_detr.DenoisingQueries'},
    ]
    config.bbox_head.dense_supervision = {'type': 'mmdet_detr.DenseSupervision'}
    return config


def auxiliary() -> dict:
    config = tiny_detr_config()
    config.backbone.out_indices = (1, 2, 3)
    head = {**tiny_detr_config().bbox_head, 'transformer': {**tiny_detr_config().neck, 'in_channels': 32, 'levels': -1}}
    detector = {'type': 'mmdet_detr.AuxiliaryHeadDetector', 'detector': config, 'aux_neck': FPN, 'aux_head': head}
    return {**detector, 'predict_by': 'aux_head'}


def whole(config: Callable[[], dict]) -> tuple[nn.Module, Call]:
    """A detector, and its predictions and its losses for a padded batch."""
    model = MODELS.build(config()).eval()
    images, samples = batch([(64, 97), (91, 70)], [3, 2]) if config is masks_config else padded_batch()

    def call(model: nn.Module) -> object:
        dtype = next(model.parameters()).dtype
        torch.manual_seed(1)  # denoising draws
        losses = model(images.to(dtype), copy.deepcopy(samples), mode='loss')
        results = model(images.to(dtype), copy.deepcopy(samples), mode='predict')
        return losses, [dict(result.pred_instances.items()) for result in results]

    return model, call


def part(name: str) -> tuple[nn.Module, Call]:
    """A part of a detector, and its outputs for what the detector gives it."""
    model = MODELS.build(masks_config()).eval()
    images, samples = batch([(64, 97), (91, 70)], [3, 2])
    with torch.no_grad():
        feats, output = model.forward_transformer(images, samples)

    def cast(value: object, dtype: torch.dtype) -> object:
        if isinstance(value, Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, (list, tuple)):
            values = [cast(v, dtype) for v in value]
            return type(value)(*values) if hasattr(value, '_fields') else type(value)(values)
        return value

    calls = {
        'neck': lambda neck, feats, output: neck(feats, samples),
        'bbox_head': lambda head, feats, output: [head(output), head.loss(output, samples)],
        'mask_head': lambda head, feats, output: head.all_queries(feats, output),
    }

    def call(module: nn.Module) -> object:
        dtype = next(module.parameters()).dtype
        return calls[name](module, cast(feats, dtype), cast(output, dtype))

    return getattr(model, name), call


MODULES = {
    'DETR': lambda: whole(tiny_detr_config),
    'DETR with parts for training': lambda: whole(training_parts),
    'DETR with masks': lambda: whole(masks_config),
    'AuxiliaryHeadDetector': lambda: whole(auxiliary),
    'TransformerNeck': lambda: part('neck'),
    'DETRHead': lambda: part('bbox_head'),
    'MaskHead': lambda: part('mask_head'),
}


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {'deepcopy': copy.deepcopy, 'pickle': lambda m: pickle.loads(pickle.dumps(m)), 'torch.save': saved}


def tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)


def assert_equal(one: object, other: object) -> None:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert len(pairs) > 1 or isinstance(one, Tensor)
    for a, b in pairs:
        assert type(a) is type(b)  # an export leaves tensors of another type behind
        assert torch.equal(a, b)


def loss_and_backward(module: nn.Module, call: Call) -> None:
    sum(x.float().sum() for x in tensors(call(module)) if x.requires_grad).backward()
    module.zero_grad()


def at_other_sizes(module: nn.Module, call: Call) -> None:
    """Two other sizes, with and without padding."""
    if hasattr(module, 'data_preprocessor'):
        for size in ((64, 64), (33, 70)):
            samples = [make_sample(size, (64, 96)), make_sample((64, 96), (64, 96))]
            module(torch.randn(2, 3, 64, 96), samples, mode='tensor')


def in_inference_mode(module: nn.Module, call: Call) -> None:
    with torch.inference_mode():
        call(module)


def under_autocast(module: nn.Module, call: Call) -> None:
    with torch.autocast('cpu', dtype=torch.bfloat16):
        call(module)


def in_another_type(module: nn.Module, call: Call) -> None:
    """In bfloat16 and back; what bfloat16 has rounded is loaded again."""
    weights = copy.deepcopy(module.state_dict())
    call(module.bfloat16())
    module.float().load_state_dict(weights)


def on_another_device(module: nn.Module, call: Call) -> None:
    copy.deepcopy(module).to('meta')


BETWEEN = {
    'nothing': lambda module, call: None,
    'a step': loss_and_backward,
    'other sizes': at_other_sizes,
    'inference mode': in_inference_mode,
    'autocast': under_autocast,
    'another type': in_another_type,
    'another device': on_another_device,
}


@pytest.mark.parametrize('name', MODULES)
def test_a_copy_computes_the_same(name):
    """Before the first call and after whatever came in between, for every way to copy; nothing global changes."""
    module, call = MODULES[name]()
    fresh = [make(module) for make in WAYS.values()]
    with torch.no_grad():
        expected = call(module)
    for copied in fresh:
        with torch.no_grad():
            assert_equal(call(copied), expected)
    for between, make in zip(BETWEEN.values(), itertools.cycle(WAYS.values()), strict=False):
        between(module, call)
        assert torch.is_grad_enabled()
        assert DefaultScope.get_current_instance().scope_name == 'mmdet'
        with torch.no_grad():
            assert_equal(call(module), expected)
            assert_equal(call(make(module)), expected)


class Raw(nn.Module):
    """The network without data samples, as it is exported."""

    def __init__(self, model: DETR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model._forward(images)


@pytest.mark.skipif('strict' not in signature(torch.export.export).parameters, reason='needs PyTorch 2.3')
@pytest.mark.parametrize('config', [masks_config, auxiliary])
def test_an_export_changes_nothing(config):
    """Neither of the exported model nor of another one in the process, and the exported one gives the same numbers."""
    model, other = (MODELS.build(config()).eval() for _ in range(2))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = [m(images, mode='tensor') for m in (model, other)]
        program = torch.export.export(Raw(model).eval(), (images,), strict=False)
        for got, goal in zip(program.module()(images), expected[0], strict=True):
            torch.testing.assert_close(got, goal, rtol=1e-4, atol=1e-4)
        for m, outputs in zip((model, other), expected, strict=True):
            assert_equal(m(images, mode='tensor'), outputs)
            assert_equal(copy.deepcopy(m)(images, mode='tensor'), outputs)
    assert torch.is_grad_enabled()
