"""The rules of the panoptic map, on masks written by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmdet_detr.models.masks.panoptic import panoptic_map
from mmdet_detr.models.masks.resize import instance_masks, nearest_by_centre

THINGS, CLASSES = 2, 4


def strips(*widths: int, height: int = 8) -> Tensor:
    """Logits (N, 8, sum of widths): query i owns strip i, and query i + 1 is its runner-up."""
    owner = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    logits = torch.full((len(widths), height, len(owner)), -5.0)
    for i in range(len(widths)):
        logits[i, :, owner == i] = 5.0
        logits[(i + 1) % len(widths), :, owner == i] = 1.0
    return logits


def of(logits: Tensor, labels: list[int], size: tuple[int, int] | None = None, min_area: int = 5) -> Tensor:
    same = tuple(logits.shape[1:])
    return panoptic_map(logits, torch.tensor(labels), THINGS, CLASSES, min_area, same, same, size or same)


def areas(panoptic: Tensor) -> dict[int, int]:
    values, counts = panoptic.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_instances_of_things_are_counted_and_stuff_has_none():
    got = of(strips(2, 3, 4, 1), [1, 0, 1, 3])
    assert areas(got) == {1001: 16, 1000: 24, 2001: 32, 3: 8}


def test_pixels_of_a_second_stuff_go_to_the_best_other_query():
    """Its segment is empty after the merge and is removed, as in the official code; the runner-up is a thing."""
    assert areas(of(strips(3, 5, 2), [2, 2, 0])) == {2: 24, 1000: 56}


def test_only_stuff_of_one_class_is_one_segment():
    assert areas(of(strips(3, 5), [2, 2])) == {2: 64}


@pytest.mark.parametrize(('height', 'expected'), [(4, {1000: 20}), (5, {1000: 20, 1001: 5})])
def test_a_segment_of_four_pixels_is_removed_and_one_of_five_is_kept(height, expected):
    assert areas(of(strips(4, 1, height=height), [0, 1])) == expected


def test_areas_are_those_of_the_original_size():
    assert areas(of(strips(4, 4), [0, 1], size=(2, 4))) == {CLASSES: 8}  # four pixels each
    assert areas(of(strips(4, 4), [0, 1], size=(4, 4))) == {1000: 8, 1001: 8}


def test_nothing_kept():
    assert areas(of(strips(3, 5)[:0], [])) == {CLASSES: 64}
    assert areas(of(strips(1, 1, height=2), [0, 1])) == {CLASSES: 4}  # removed one by one


def test_padding_is_cut_off_before_a_map_is_enlarged():
    logits = torch.randn(5, 10, 12)
    padded = torch.nn.functional.pad(logits, (0, 9, 0, 6), mode='replicate')
    labels = torch.tensor([0, 1, 2, 3, 0])
    alone = panoptic_map(logits, labels, THINGS, CLASSES, 5, (40, 48), (40, 48), (60, 72))
    together = panoptic_map(padded, labels, THINGS, CLASSES, 5, (64, 84), (40, 48), (60, 72))
    assert torch.equal(alone, together)
    sizes = [((40, 48), (40, 48), (60, 72)), ((64, 84), (40, 48), (60, 72))]
    assert torch.equal(instance_masks(logits, *sizes[0]), instance_masks(padded, *sizes[1]))


def test_pixels_are_those_of_pillow():
    generator = np.random.default_rng(0)
    for length, size in generator.integers(1, 900, (300, 2)):
        row = np.arange(length, dtype=np.int32)[None]
        expected = np.array(Image.fromarray(row).resize((int(size), 1), Image.Resampling.NEAREST))[0]
        assert np.array_equal(nearest_by_centre(length, size), expected), (length, size)
