import math

import pytest
import torch
from mmdet.models.layers import SinePositionalEncoding

from mmdet_detr.models.position_encoding import sine_position_encoding

CPU = torch.device('cpu')


def test_first_cell_by_hand():
    pos = sine_position_encoding(None, (2, 4), 8, CPU, torch.float64)[0]
    # The first of 2 rows is at half a turn, the first of 4 columns at a quarter. The wavelengths are 1 and 100.
    y, x = math.pi, math.pi / 2
    expected = [math.sin(y), math.cos(y), math.sin(y / 100), math.cos(y / 100)]
    expected += [math.sin(x), math.cos(x), math.sin(x / 100), math.cos(x / 100)]
    assert pos[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('cells', [None, [(5, 7), (3, 7), (5, 2)]])
def test_equals_mmdet_on_cells_of_the_image(cells):
    mask = torch.zeros(len(cells or [0]), 5, 7)
    for image, (rows, columns) in enumerate(cells or []):
        mask[image] = 1
        mask[image, :rows, :columns] = 0
    expected = SinePositionalEncoding(num_feats=16, normalize=True)(mask.bool())  # (B, C, H, W)
    of_images = None if cells is None else torch.tensor(cells)
    got = sine_position_encoding(of_images, (5, 7), 32, CPU, torch.float32).transpose(1, 2).unflatten(2, (5, 7))
    visible = (mask == 0)[:, None].expand_as(expected)
    torch.testing.assert_close(got[visible], expected[visible], rtol=0, atol=1e-5)


def test_made_in_inference_and_used_in_training():
    with torch.inference_mode():
        sine_position_encoding(None, (2, 2), 24, CPU, torch.float32)
    weight = torch.ones(24, requires_grad=True)
    (sine_position_encoding(None, (2, 2), 24, CPU, torch.float32) * weight).sum().backward()
    assert weight.grad is not None


def test_exported_and_then_used_by_another_model():
    class Encoding(torch.nn.Module):
        def forward(self, images):
            return images + sine_position_encoding(None, (2, 2), 20, images.device, images.dtype)

    torch.export.export(Encoding(), (torch.zeros(1, 4, 20),))
    assert type(sine_position_encoding(None, (2, 2), 20, CPU, torch.float32)) is torch.Tensor


def test_half_precision_is_cast_from_float32():
    exact = sine_position_encoding(None, (40, 40), 64, CPU, torch.float32)
    assert torch.equal(sine_position_encoding(None, (40, 40), 64, CPU, torch.float16), exact.half())
