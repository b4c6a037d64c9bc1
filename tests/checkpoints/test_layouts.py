from dataclasses import replace

import pytest
import torch
from foreign import IMPLEMENTATIONS, PANOPTIC, TINY, Foreign, Sizes, hf_panoptic, official
from helpers import padded_batch
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint


def difference(foreign: Foreign, sizes: Sizes, tmp_path) -> float:
    """Largest difference of logits and boxes between an implementation and ours with its weights."""
    torch.save(foreign.state_dict, tmp_path / 'weights.pth')
    model = MODELS.build(sizes.config).eval()
    load_checkpoint(model, str(tmp_path / 'weights.pth'), strict=True)
    images, samples = padded_batch()
    logits, boxes = model(images, samples, mode='tensor')
    expected_logits, expected_boxes = foreign.forward(images, samples)
    assert logits[-1].std() > 0.1
    return max((logits[-1] - expected_logits).abs().max().item(), (boxes[-1] - expected_boxes).abs().max().item())


@pytest.mark.parametrize('layout', IMPLEMENTATIONS)
@torch.no_grad()
def test_outputs_equal_the_implementation(layout, tmp_path):
    assert difference(IMPLEMENTATIONS[layout](), TINY, tmp_path) < 1e-4


@pytest.mark.parametrize('depth', [50, 101])
@pytest.mark.parametrize('dilated', [False, True], ids=['plain', 'DC5'])
@torch.no_grad()
def test_outputs_of_the_official_depths(depth, dilated, tmp_path):
    sizes = replace(TINY, depth=depth, dilated=dilated)
    assert difference(official(sizes), sizes, tmp_path) < 1e-4


@torch.no_grad()
def test_outputs_of_a_panoptic_model_of_transformers(tmp_path):
    assert difference(hf_panoptic(), PANOPTIC, tmp_path) < 1e-4
