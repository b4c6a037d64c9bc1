import itertools
import math

import numpy as np
import pytest
import torch
from helpers import giou, make_sample, random_sample, targets_from

from mmdet_detr.models import BipartiteMatchLoss, DenseSupervision, TransformerOutput
from mmdet_detr.models.padding import cell_mask, image_cells


def reference(samples, input_size, grid_size, radius) -> tuple[list[list[int]], list[list[bool]]]:
    """Object (its number, or the number of annotations for none) and padding of every cell, cell by cell."""
    most = max(len(sample.gt_instances) for sample in samples)
    strides = [padded / cells for padded, cells in zip(input_size, grid_size, strict=True)]
    cells = list(itertools.product(range(grid_size[0]), range(grid_size[1])))
    objects, padding = [], []
    for sample in samples:
        boxes = sample.gt_instances.bboxes.double().tolist()
        # A cell shows the image if the pixel does that the official nearest resize reads; the first cell always does.
        axes = list(zip(strides, sample.img_shape, strict=True))
        outside = [
            any(i and int(i * stride) >= length for i, (stride, length) in zip(cell, axes, strict=True))
            for cell in cells
        ]
        assigned: list[list[int]] = [[] for _ in cells]
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            x0, y0, distances = (x1 + x2) / 2, (y1 + y2) / 2, []
            for i, (row, column) in enumerate(cells):
                y, x = (row + 0.5) * strides[0], (column + 0.5) * strides[1]
                near = abs(x - x0) < radius * strides[1] and abs(y - y0) < radius * strides[0]
                if near and x1 < x < x2 and y1 < y < y2:
                    assigned[i].append(number)
                distances.append(math.inf if outside[i] else math.dist((y, x), (y0, x0)))
            assigned[int(np.argmin(distances))].append(number)
        area = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
        objects.append(
            [
                min(numbers, key=area.__getitem__) if numbers and not out else most
                for numbers, out in zip(assigned, outside, strict=True)
            ]
        )
        padding.append(outside)
    return objects, padding


def padding_of(samples, input_size, grid_size) -> torch.Tensor:
    """True on cells of the padding, by the rule of the attention's mask."""
    sizes = torch.tensor([sample.img_shape for sample in samples])
    return ~cell_mask(image_cells(sizes, input_size, grid_size), grid_size)


@pytest.mark.parametrize('radius', [0, 1.5, 100])
def test_assignment_equals_loops_over_cells(radius):
    torch.manual_seed(0)
    samples = [
        random_sample((96, 128), (96, 128), 4, 5),
        random_sample((61, 100), (96, 128), 9, 5),
        random_sample((20, 128), (96, 128), 0, 5),
        random_sample((3, 9), (96, 128), 1, 5),  # smaller than any cell
    ]
    dense = DenseSupervision(radius)
    sizes = torch.tensor([sample.img_shape for sample in samples])
    for grid in ((12, 16), (3, 4), (5, 7)):
        padding = padding_of(samples, (96, 128), grid)
        objects = dense.assign(targets_from(samples, 5), sizes, (96, 128), grid, padding)
        assert (objects.tolist(), padding.tolist()) == reference(samples, (96, 128), grid, radius)


def test_an_object_smaller_than_a_cell_has_the_nearest_one():
    sample = make_sample((64, 64), boxes=torch.tensor([[33.0, 9.0, 35.0, 11.0]]))
    nothing = torch.zeros(1, 16, dtype=torch.bool)
    sizes = torch.tensor([[64, 64]])
    objects = DenseSupervision().assign(targets_from([sample]), sizes, (64, 64), (4, 4), nothing)
    assert objects.tolist() == [[1, 1, 0, 1] + [1] * 12]


def test_an_annotation_that_cannot_be_learnt_has_no_cell():
    sample = make_sample((64, 64), boxes=torch.tensor([[30.0, 10.0, 20.0, 50.0]]))
    nothing = torch.zeros(1, 16, dtype=torch.bool)
    sizes = torch.tensor([[64, 64]])
    objects = DenseSupervision().assign(targets_from([sample]), sizes, (64, 64), (4, 4), nothing)
    assert (objects == 1).all()


@pytest.mark.parametrize('counts', [(3, 1), (0, 0)])
def test_losses_cell_by_cell(counts):
    """Cross-entropy with the weight of no object outside objects; boxes where there is one; nothing on padding."""
    torch.manual_seed(0)
    sizes = ((64, 64), (40, 64))
    samples = [random_sample(size, (64, 64), count, 5) for size, count in zip(sizes, counts, strict=True)]
    targets = targets_from(samples, 5)
    logits, boxes = torch.randn(2, 20, 6), torch.rand(2, 20, 4) * 0.4 + 0.1
    grids = [(4, 4), (2, 2)]
    mask = ~torch.cat([padding_of(samples, (64, 64), grid) for grid in grids], dim=1)
    output = TransformerOutput(logits, logits, logits, mask, grids)
    dense = DenseSupervision(1.5, loss_weight=2.0, cls_weight=0.5)
    got = dense.loss(logits, boxes, targets, samples, output, BipartiteMatchLoss())
    by_level = [reference(samples, (64, 64), grid, 1.5) for grid in grids]
    total, weight_sum, positives = np.zeros(3), 0.0, 0
    for image in range(2):
        objects, padding = ([value for level in by_level for value in level[kind][image]] for kind in range(2))
        for cell, (number, ignored) in enumerate(zip(objects, padding, strict=True)):
            if ignored:
                continue
            positive = number < targets.labels.shape[1]
            row, weight = logits[image, cell].double().numpy(), 1.0 if positive else 0.1
            label = int(targets.labels[image, number]) if positive else 5
            total[0] += weight * (np.log(np.exp(row).sum()) - row[label])
            weight_sum += weight
            if positive:
                positives += 1
                box, goal = (b.double().numpy() for b in (boxes[image, cell], targets.boxes[image, number]))
                total[1:] += 5 * np.abs(box - goal).sum(), 2 * (1 - giou(box, goal))
    expected = 2 * total / [weight_sum, max(1, positives), max(1, positives)]
    assert torch.stack(got).tolist() == pytest.approx([expected[0] / 2, *expected[1:]], rel=1e-5)


def test_a_negative_radius_is_an_error():
    with pytest.raises(ValueError, match='-1'):
        DenseSupervision(radius=-1)
