from dataclasses import replace

import pytest
import torch
from foreign import IMPLEMENTATIONS, TINY, Foreign, Sizes, official
from helpers import padded_batch
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint


def compare(foreign: Foreign, sizes: Sizes, tmp_path) -> None:
    torch.save(foreign.state_dict, tmp_path / 'weights.pth')
    model = MODELS.build(sizes.config).eval()
    load_checkpoint(model, str(tmp_path / 'weights.pth'), strict=True)
    images, samples = padded_batch()
    logits, boxes = model(images, samples, mode='tensor')
    expected_logits, expected_boxes = foreign.forward(images, samples)
    torch.testing.assert_close(logits[-1], expected_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes[-1], expected_boxes, rtol=0, atol=1e-4)
    assert logits[-1].std() > 0.1


@pytest.mark.parametrize('layout', IMPLEMENTATIONS)
@torch.no_grad()
def test_outputs_equal_the_implementation(layout, tmp_path):
    compare(IMPLEMENTATIONS[layout](), TINY, tmp_path)


@pytest.mark.parametrize('depth', [50, 101])
@pytest.mark.parametrize('dilated', [False, True], ids=['plain', 'DC5'])
@torch.no_grad()
def test_outputs_of_the_official_depths(depth, dilated, tmp_path):
    sizes = replace(TINY, depth=depth, dilated=dilated)
    compare(official(sizes), sizes, tmp_path)
