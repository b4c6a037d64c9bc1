"""Packages that mmdet imports at every start are imported when they are used, and work as before."""

import importlib.util
import inspect

import pytest
import torch
from mmdet.models.language_models import bert
from mmdet.models.utils import vlfuse_helper
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmdet_detr.compat.late_imports import IMPORTED, IMPORTERS

needs_transformers = pytest.mark.skipif(importlib.util.find_spec('transformers') is None, reason='needs transformers')
SIZES = {'hidden_size': 8, 'num_attention_heads': 2, 'num_hidden_layers': 2, 'intermediate_size': 16, 'vocab_size': 20}


def test_a_start_imports_none_of_them(run_python):
    code = (
        'import sys, mmdet_detr.models, mmdet_detr.datasets, mmdet_detr.engine\n'
        f'print(*set({list(IMPORTED)}) & set(sys.modules))\n'
        f'print(*set({list(IMPORTERS)}) - set(sys.modules))\n'
    )
    done = run_python('-c', code)
    assert done.returncode == 0, done.stderr
    imported, not_reached = done.stdout.splitlines()[-2:]
    assert imported == ''
    assert not_reached in ('', 'mmdet.datasets.transforms.generate_line')  # OpenMMLab's mmdet has no lanes


def test_a_package_that_is_imported_already_stays_itself(run_python):
    pytest.importorskip('imagecorruptions')
    code = (
        'import imagecorruptions, sys, mmdet_detr\n'
        'from mmdet.datasets.transforms import transforms\n'
        'assert transforms.corrupt is imagecorruptions.corrupt\n'
        'assert sys.modules["imagecorruptions"] is imagecorruptions\n'
    )
    done = run_python('-c', code)
    assert done.returncode == 0, done.stderr


@needs_transformers
def test_language_model_of_grounding_dino(tmp_path):
    import transformers

    torch.manual_seed(0)
    theirs = transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path)
    encoder = bert.BertEncoder(str(tmp_path)).eval()
    assert type(encoder.model) is transformers.BertModel
    tokens = {'input_ids': torch.tensor([[3, 1, 4]]), 'attention_mask': torch.tensor([[1, 1, 0]])}
    with torch.no_grad():
        hidden = encoder({**tokens, 'position_ids': None, 'token_type_ids': None})['hidden']
        torch.testing.assert_close(hidden, theirs(**tokens).last_hidden_state)


@needs_transformers
def test_a_class_built_on_a_stand_in():
    """mmdet's layer of GLIP has the parameters of its base class in transformers, and its own forward pass."""
    from transformers.models.bert.modeling_bert import BertIntermediate

    layer = vlfuse_helper.BertIntermediate(bert.BertConfig(**SIZES))
    assert isinstance(layer, BertIntermediate)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(layer(x), nn.functional.gelu(layer.dense(x)))
    with pytest.raises(AttributeError):
        vlfuse_helper.BertIntermediate.nothing  # noqa: B018


@needs_transformers
def test_optimizer_of_transformers():
    from transformers import Adafactor

    assert next(iter(inspect.signature(OPTIMIZERS.get('Adafactor')).parameters)) == 'params'
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    wrapper = build_optim_wrapper(model, {'optimizer': {'type': 'Adafactor', 'lr': None}})
    assert type(wrapper.optimizer) is Adafactor
    wrapper.update_params(model(torch.ones(1, 2)).sum())
    assert not torch.equal(model.weight, before)


def test_lanes_and_corruptions():
    pytest.importorskip('imgaug')
    pytest.importorskip('imagecorruptions')
    generate_line = pytest.importorskip('mmdet.datasets.transforms.generate_line')
    from mmdet.datasets.transforms import transforms

    assert generate_line.LineString([(0, 0), (3, 4)]).length == 5
    assert list(generate_line.iaa.Sequential([])) == []
    image = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()
    assert transforms.corrupt(image, corruption_name='gaussian_noise').any()
