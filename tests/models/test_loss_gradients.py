import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS

from mmdet_detr.models.loss_gradients import box_loss, class_loss, iou_loss


def by_autograd(function, predictions: torch.Tensor, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    predictions = predictions.clone().requires_grad_()
    values = function(predictions).view(len(predictions), -1).sum(1)
    return values.detach(), torch.autograd.grad((values * upstream).sum(), predictions)[0]


def assert_same(got, expected) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


CLASS_LOSSES = [
    {'type': 'CrossEntropyLoss', 'loss_weight': 2.0},
    {'type': 'CrossEntropyLoss', 'class_weight': [1.0, 2.0, 0.5, 0.1]},
    {'type': 'CrossEntropyLoss', 'use_sigmoid': True},
    {'type': 'FocalLoss', 'use_sigmoid': True, 'loss_weight': 3.0},
    {'type': 'FocalLoss', 'use_sigmoid': True, 'gamma': 1.5, 'alpha': 1.0},
]


@pytest.mark.parametrize('config', CLASS_LOSSES, ids=lambda config: '-'.join(map(str, config.values())))
@pytest.mark.parametrize('weighted', [True, False])
def test_class_loss_equals_autograd(config, weighted):
    loss = MODELS.build(config)
    logits = torch.randn(9, 4).double() * 3
    labels = torch.randint(4 + config.get('use_sigmoid', False), (9,))  # 4: no object
    # fractions that float32 holds: mmdet takes some of them there
    weights, upstream = torch.randint(1, 9, (2, 9)).double() / 8
    weights = weights if weighted else None
    values, gradient = class_loss(loss, logits, labels, weights)
    expected = by_autograd(lambda x: loss(x, labels, weights, reduction_override='none'), logits, upstream)
    assert_same((values, gradient(logits, upstream)), expected)


def test_focal_loss_far_out():
    """No overflow where sigmoid is 0 or 1."""
    logits, labels = torch.tensor([[-500.0, 500.0], [500.0, -500.0]]), torch.tensor([0, 0])
    values, gradient = class_loss(MODELS.build({'type': 'FocalLoss', 'use_sigmoid': True}), logits, labels, None)
    assert values.tolist() == pytest.approx([0.25 * 500 + 0.75 * 500, 0])
    assert gradient(logits, torch.ones(2)).flatten().tolist() == pytest.approx([-0.25, 0.75, 0, 0])


coordinates = st.floats(0.05, 0.95)
box = st.tuples(coordinates, coordinates, st.floats(0.01, 0.9), st.floats(0.01, 0.9))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(box, box), min_size=1, max_size=5), st.sampled_from(['L1Loss', 'SmoothL1Loss']))
def test_box_loss_equals_autograd(pairs, kind):
    loss = MODELS.build({'type': kind, 'loss_weight': 5.0})
    boxes, wanted = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    expected = by_autograd(lambda x: loss(x, wanted, reduction_override='none'), boxes, torch.ones(1))
    assert_same(box_loss(loss, boxes, wanted), expected)


def corners(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), dim=1)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(box, box), min_size=1, max_size=5),
    st.sampled_from(['GIoULoss', 'IoULoss', 'DIoULoss']),
    st.sampled_from([1e-9, 1e-2]),  # the latter bounds the areas of small boxes, whose derivative is 0 then
)
def test_iou_loss_equals_autograd(pairs, kind, eps):
    """Apart, touching, one inside the other: mmdet's loss on corners, differentiated by autograd, is the reference."""
    loss = MODELS.build({'type': kind, 'loss_weight': 2.0, 'eps': eps})
    boxes, wanted = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    # autograd halves the derivative where two edges coincide; ours counts such an edge as inside
    edges = corners(boxes)
    boxes = boxes + 1e-7 * (edges == corners(wanted)).any()
    expected = by_autograd(lambda x: loss(corners(x), corners(wanted), reduction_override='none'), boxes, torch.ones(1))
    assert_same(iou_loss(loss, boxes, wanted), expected)


def test_giou_by_hand():
    boxes, wanted = torch.tensor([[0.5, 0.4, 0.4, 0.4]]).double(), torch.tensor([[0.4, 0.4, 0.4, 0.4]]).double()
    values, gradient = iou_loss(MODELS.build({'type': 'GIoULoss'}), boxes, wanted)
    assert values.item() == pytest.approx(1 - 0.12 / 0.2)
    # to the right, 0.4 leave the overlap and enter union and hull: d(0.12/0.2) = (-0.4 * 0.2 - 0.12 * 0.4) / 0.04
    assert gradient[0, 0].item() == pytest.approx(3.2)
    assert gradient[0, 1].item() == 0
