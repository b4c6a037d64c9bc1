import torch
import torch.nn.functional as F
from helpers import make_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_detr.models.padding import cell_mask, image_cells, image_sizes


def test_one_padded_image_of_two():
    samples = [make_sample((64, 96)), make_sample((33, 32), (64, 96))]
    sizes, input_size = image_sizes(samples)
    assert (sizes.tolist(), input_size) == ([[64, 96], [33, 32]], (64, 96))
    cells = image_cells(sizes, input_size, (2, 3))
    assert cells.tolist() == [[2, 3], [2, 1]]
    assert cell_mask(cells, (2, 3)).tolist() == [[True] * 6, [True, False, False] * 2]


@settings(deadline=None)
@given(st.integers(1, 1400), st.integers(1, 1400), st.sampled_from([8, 16, 32]), st.integers(0, 1400))
def test_equals_the_resized_mask_of_the_official_code(height, width, stride, padding):
    padded = (height + padding, width + padding // 2)
    grid_size = (-(-padded[0] // stride), -(-padded[1] // stride))
    mask = torch.zeros(1, 1, *padded)
    mask[..., :height, :width] = 1
    expected = F.interpolate(mask, size=grid_size)[0, 0].bool()
    cells = image_cells(torch.tensor([[height, width]]), padded, grid_size)
    assert torch.equal(cell_mask(cells, grid_size).view(grid_size), expected)


def test_image_smaller_than_a_cell_has_one():
    assert image_cells(torch.tensor([[1, 1]]), (640, 640), (20, 20)).tolist() == [[1, 1]]
