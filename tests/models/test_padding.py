import torch
import torch.nn.functional as F
from helpers import make_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_detr.models.padding import attention_mask, image_cells


def test_no_samples_means_no_padding():
    assert image_cells(None, (3, 4)) is None


def test_unpadded_batch_has_no_mask():
    assert image_cells([make_sample((64, 96))] * 2, (2, 3)) is None


def test_one_padded_image_of_two():
    samples = [make_sample((64, 96)), make_sample((33, 32), (64, 96))]
    assert image_cells(samples, (2, 3)) == [(2, 3), (2, 1)]


@settings(deadline=None)
@given(st.integers(1, 1400), st.integers(1, 1400), st.sampled_from([8, 16, 32]), st.integers(1, 1400))
def test_equals_the_resized_mask_of_the_official_code(height, width, stride, padding):
    padded = (height + padding, width + padding // 2)
    feature_size = (-(-padded[0] // stride), -(-padded[1] // stride))
    mask = torch.zeros(1, 1, *padded)
    mask[..., :height, :width] = 1
    expected = F.interpolate(mask, size=feature_size)[0, 0].bool()
    cells = image_cells([make_sample((height, width), padded)], feature_size)
    got = attention_mask(cells or [feature_size], feature_size, torch.device('cpu'))
    assert torch.equal(got.view(feature_size), expected)
