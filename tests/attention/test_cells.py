"""Where cells are in an image: cut at its borders, not stretched."""

import numpy as np
import pytest
import torch

from mmdet_detr.attention.cells import CellMap
from mmdet_detr.models.padding import cell_mask, image_cells


def test_a_map_by_hand():
    """2 x 3 cells of 8 x 12 pixels, of which the image has 6 x 9; each of them is 2 x 3 pixels of the original."""
    cells = CellMap([(2, 3)], (8, 12), (6, 9), (12, 27))
    got = cells.at_pixels(np.arange(6.0))
    assert got.shape == (12, 27)
    by_pixel = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 2]] * 4 + [[3, 3, 3, 3, 4, 4, 4, 4, 5]] * 2)
    assert np.array_equal(got, by_pixel.repeat(2, 0).repeat(3, 1))
    assert np.array_equal(cells.at_pixels(np.arange(6.0), (6, 9)), by_pixel)


def test_the_last_cell_sticks_out():
    """21 pixels in a stride of 8 have 3 cells, that start at floor(i * 21 / 3)."""
    got = CellMap([(1, 3)], (1, 21), (1, 20), (1, 20)).at_pixels(np.arange(3.0))
    assert got[0].tolist() == [0] * 7 + [1] * 7 + [2] * 6


@pytest.mark.parametrize(
    ('image', 'padded', 'grid'),
    [
        ((800, 1333), (800, 1333), (25, 42)),
        ((790, 1201), (810, 1333), (26, 42)),
        ((33, 1), (64, 7), (2, 1)),
        ((1066, 800), (1066, 1066), (67, 67)),
    ],
)
def test_visible_are_the_cells_that_are_no_padding(image, padded, grid):
    """The rule of the transformer's mask, with its rounding."""
    numbers = np.arange(grid[0] * grid[1])
    got = CellMap([grid], padded, image, image).at_pixels(numbers)
    mask = cell_mask(image_cells(torch.tensor([image]), padded, grid), grid)[0]
    assert np.array_equal(np.unique(got), numbers[mask.numpy()])


def test_cell_at_a_point_is_the_one_of_its_pixel():
    cells = CellMap([(7, 5)], (50, 40), (48, 31), (96, 62))
    numbers = cells.at_pixels(np.arange(35))
    for x, y in ((0, 0), (61.9, 95.9), (30.5, 17), (61, 0)):
        assert cells.at(x, y) == numbers[int(y), int(x)]


def test_levels_are_summed_and_points_are_in_the_finest():
    cells = CellMap([(1, 2), (2, 4)], (4, 8), (4, 8), (4, 8))
    got = cells.at_pixels(np.array([10, 20, 1, 2, 3, 4, 5, 6, 7, 8]))
    assert got[::2, ::2].tolist() == [[11, 12, 23, 24], [15, 16, 27, 28]]
    assert cells.at(3, 2) == 2 + 5
