import math

import numpy as np
import pytest
import torch
from helpers import giou, random_sample, targets_from

from mmdet_detr.models import BipartiteMatchLoss, DenoisingQueries


def targets_of_counts(*counts: int):
    torch.manual_seed(0)
    return targets_from([random_sample((64, 96), None, count, num_classes=5) for count in counts], 5)


def denoising(**settings) -> DenoisingQueries:
    torch.manual_seed(1)
    return DenoisingQueries(num_classes=5, embed_dims=16, **settings)


def test_without_noise_queries_are_the_objects():
    """Content is the label's row, position the perceptron of sines and cosines of x, y, width and height."""
    targets = targets_of_counts(2)
    queries = denoising(num_sets=2, box_noise=0, label_noise=0)
    sets = queries(targets)
    assert sets.pos.shape == (1, 2, 2, 16)
    for number, (label, box) in enumerate(zip(targets.labels[0], targets.boxes[0], strict=True)):
        code = [
            function(2 * math.pi * value / 10000 ** (2 * pair / 8))
            for value in box.tolist()
            for pair in range(4)
            for function in (math.sin, math.cos)
        ]
        for copy in range(2):
            torch.testing.assert_close(sets.pos[0, copy, number], queries.box_embed(torch.tensor(code)))
            torch.testing.assert_close(sets.content[0, copy, number], queries.label_embed.weight[label])


def test_noise_is_as_large_as_said(monkeypatch):
    """Corners move by at most half of box_noise times the side, evenly; labels change in the share that is said."""
    targets = targets_of_counts(6, 6)
    queries = denoising(num_sets=2000, box_noise=0.4, label_noise=0.5, max_queries=10**6)
    seen = {}
    monkeypatch.setattr('mmdet_detr.models.training_only.denoising_queries.SCALE', 1.0)
    monkeypatch.setattr(
        'mmdet_detr.models.training_only.denoising_queries.sine_and_cosine',
        lambda boxes, channels: seen.setdefault('boxes', boxes)[..., None].expand(*boxes.shape, channels),
    )
    sets = queries(targets)
    noised, boxes = seen['boxes'], targets.boxes[:, None]
    assert noised[..., 2:].min() > 0
    corners, goal = (torch.cat((b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2), -1) for b in (noised, boxes))
    assert corners.min() > -1e-6
    assert corners.max() < 1 + 1e-6
    moved = (corners - goal) / boxes[..., 2:].repeat(1, 1, 1, 2)
    assert moved.abs().max() <= 0.2 + 1e-5
    assert moved.mean().abs() < 0.01
    assert moved.std().item() == pytest.approx(0.4 / 12**0.5, rel=0.05)
    kept = (sets.content == queries.label_embed(targets.labels)[:, None]).all(-1).float().mean()
    assert kept.item() == pytest.approx(0.5 + 0.5 / 5, abs=0.02)  # a label drawn anew can be the old one


def test_noise_repeats_with_the_seed():
    targets, queries = targets_of_counts(3), denoising()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(queries(targets).pos)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_losses_are_those_of_the_paper_without_matching():
    """Query by query, in float64: a query's object is the one that it was made of."""
    targets = targets_of_counts(3, 1, 0)
    logits, boxes = torch.randn(2, 3, 2, 3, 6), torch.rand(2, 3, 2, 3, 4) * 0.4 + 0.1  # (L, B, G, T, ...)
    got = denoising(num_sets=2, loss_weight=3.0, cls_weight=0.5).loss(logits, boxes, targets, BipartiteMatchLoss())
    expected = np.zeros(3)
    for layer, image, copy in np.ndindex(2, 3, 2):
        for number in range(int(targets.valid[image].sum())):
            row = logits[layer, image, copy, number].double().numpy()
            box, goal = (b.double().numpy() for b in (boxes[layer, image, copy, number], targets.boxes[image, number]))
            expected += [
                np.log(np.exp(row).sum()) - row[targets.labels[image, number]],
                5 * np.abs(box - goal).sum(),
                2 * (1 - giou(box, goal)),
            ]
    expected *= 3 / (2 * 4)  # 2 copies of 4 objects
    assert torch.stack(got).tolist() == pytest.approx([expected[0] / 2, *expected[1:]], rel=1e-5)


def test_images_without_objects_are_finite_and_teach_nothing():
    """Every parameter has a gradient, as DDP demands, also in a batch without any object."""
    for counts in ((2, 0), (0, 0)):
        targets, queries = targets_of_counts(*counts), denoising()
        sets = queries(targets)
        assert sets.mask.any(-1).all()
        assert torch.isfinite(sets.pos).all()
        logits = sets.content @ torch.randn(16, 6)
        boxes = (sets.pos @ torch.randn(16, 4)).sigmoid()
        losses = queries.loss(logits[None], boxes[None], targets, BipartiteMatchLoss())
        sum(losses).backward()
        for parameter in queries.parameters():
            assert torch.isfinite(parameter.grad).all()
            assert bool(parameter.grad.any()) == (sum(counts) > 0)


def test_crowded_images_get_fewer_sets():
    queries = denoising(num_sets=4, max_queries=20)
    assert queries(targets_of_counts(5, 1)).pos.shape[1:3] == (4, 5)
    assert queries(targets_of_counts(8, 1)).pos.shape[1:3] == (2, 8)
    assert queries(targets_of_counts(50)).pos.shape[1:3] == (1, 50)


@pytest.mark.parametrize('wrong', [{'num_sets': 0}, {'max_queries': 0}, {'box_noise': 1.5}, {'label_noise': -0.1}])
def test_settings_out_of_range_are_an_error(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f'{name}={value}'):
        denoising(**wrong)
