import pytest
import torch
from foreign import IMPLEMENTATIONS
from helpers import padded_batch, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint


@pytest.mark.parametrize('layout', IMPLEMENTATIONS)
@torch.no_grad()
def test_outputs_equal_the_implementation(layout, tmp_path):
    foreign = IMPLEMENTATIONS[layout]()
    torch.save(foreign.state_dict, tmp_path / 'weights.pth')
    model = MODELS.build(tiny_detr_config()).eval()
    load_checkpoint(model, str(tmp_path / 'weights.pth'), strict=True)
    images, samples = padded_batch()
    logits, boxes = model(images, samples, mode='tensor')
    expected_logits, expected_boxes = foreign.forward(images, samples)
    torch.testing.assert_close(logits[-1], expected_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes[-1], expected_boxes, rtol=0, atol=1e-4)
    assert logits[-1].std() > 0.1
