import logging

import numpy as np
import pytest
import torch
from helpers import make_sample, random_sample, reference_losses, targets_from
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmengine.logging import MMLogger
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_detr.models import BipartiteMatchLoss
from mmdet_detr.models.matching.costs import iou_of
from mmdet_detr.models.matching.loss import focal_loss

NAMES = [f'{prefix}{loss}' for prefix in ('', 'd0.') for loss in ('loss_cls', 'loss_bbox', 'loss_iou')]
STATISTICS = ['class_error', 'cardinality_error', 'matched_queries', 'query_spread']


def random_predictions(num_images: int, num_queries: int = 5, num_classes: int = 3, dtype=torch.float32):
    logits = torch.randn(2, num_images, num_queries, num_classes + 1, dtype=dtype, requires_grad=True)
    raw = torch.randn(2, num_images, num_queries, 4, dtype=dtype, requires_grad=True)
    return logits, raw, raw.sigmoid()


def test_by_hand():
    """One layer, one image, two queries. The first query overlaps the only object."""
    sample = make_sample((10, 10), boxes=torch.tensor([[2.0, 2.0, 6.0, 6.0]]), labels=torch.tensor([1]))
    logits = torch.zeros(1, 1, 2, 3)
    boxes = torch.tensor([[[[0.5, 0.4, 0.4, 0.4], [0.9, 0.9, 0.1, 0.1]]]])
    losses = BipartiteMatchLoss()(logits, boxes, targets_from([sample]))
    assert losses['loss_cls'].item() == pytest.approx(np.log(3))
    assert losses['loss_bbox'].item() == pytest.approx(5 * 0.1)
    # The boxes (0.3, 0.2, 0.7, 0.6) and (0.2, 0.2, 0.6, 0.6) have overlap 0.12, union 0.2 and hull 0.2.
    assert losses['loss_iou'].item() == pytest.approx(2 * (1 - 0.12 / 0.2), rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(0, 2**31 - 1))
def test_equals_the_plain_reference(counts, seed):
    """Images have any number of objects: also none, and more than the five queries."""
    torch.manual_seed(seed)
    samples = [random_sample((60, 90), (100, 100), count, num_classes=3) for count in counts]
    logits, _, boxes = random_predictions(len(counts), dtype=torch.float64)
    targets = targets_from(samples)
    losses = BipartiteMatchLoss()(logits, boxes, targets)
    labels = [targets.labels[i, :count].numpy() for i, count in enumerate(counts)]
    target_boxes = [targets.boxes[i, :count].double().numpy() for i, count in enumerate(counts)]
    expected = reference_losses(logits.detach().numpy(), boxes.detach().numpy(), labels, target_boxes)
    assert list(losses) == NAMES + STATISTICS
    for name in NAMES:
        assert losses[name].item() == pytest.approx(expected[name], rel=1e-6, abs=1e-12), name


def test_empty_batch_stays_in_the_graph():
    logits, raw, boxes = random_predictions(2)
    losses = BipartiteMatchLoss()(logits, boxes, targets_from([make_sample((10, 10)), make_sample((20, 10))]))
    assert losses['loss_bbox'].item() == losses['loss_iou'].item() == 0
    assert losses['loss_cls'].item() == pytest.approx(-logits[-1].log_softmax(-1)[..., -1].mean().item(), rel=1e-5)
    assert [name for name, value in losses.items() if value.requires_grad] == NAMES
    sum(losses.values()).backward()
    assert raw.grad is not None
    assert torch.all(raw.grad == 0)
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize('scale', [1.0, 0.0], ids=['apart', 'on the prediction'])
def test_zero_width_boxes(scale):
    boxes = torch.tensor([[5.0, 2.0, 5.0, 8.0], [3.0, 3.0, 3.0, 3.0]])
    sample = make_sample((10, 10), boxes=boxes, labels=torch.tensor([0, 1]))
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    predicted = torch.tensor([0.5, 0.5, 0.0, 0.6]) + scale * torch.rand(2, 1, 4, 4) * 0.2
    predicted.requires_grad_()
    losses = BipartiteMatchLoss()(logits, predicted, targets_from([sample]))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.isfinite(predicted.grad).all()
    assert torch.isfinite(logits.grad).all()


def test_more_boxes_than_queries_warns_once_with_the_numbers():
    records: list[str] = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_instance('crowds')
    logger.addHandler(handler)
    loss = BipartiteMatchLoss()
    sample = random_sample((50, 50), None, 9, num_classes=3)
    for _ in range(2):
        logits, _, boxes = random_predictions(1)
        losses = loss(logits, boxes, targets_from([sample]))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(records) == 1
    assert '9 objects' in records[0]
    assert '5 queries' in records[0]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_float32_under_autocast(dtype):
    logits, _, boxes = random_predictions(1)
    targets = targets_from([random_sample((500, 700), None, 3, num_classes=3)])
    loss = BipartiteMatchLoss()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = loss(logits.to(dtype), boxes.to(dtype), targets)
    expected = loss(logits.to(dtype).float(), boxes.to(dtype).float(), targets)
    for name in NAMES:
        assert got[name].dtype == torch.float32
        assert got[name].item() == pytest.approx(expected[name].item(), rel=1e-6)


class Synchronising(TorchDispatchMode):
    """Records operators that make a device wait for the host: reading a value, or a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ('index', 'index_put_') and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or name in ('_local_scalar_dense', 'nonzero', 'masked_select', 'equal', 'unique_dim'):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_one_copy_to_the_host_a_step(monkeypatch):
    copies = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, 'cpu', lambda self: copies.append(self.shape) or copy(self))
    monkeypatch.setattr(torch.Tensor, 'tolist', lambda self: pytest.fail('tolist waits for the device'))
    samples = [random_sample((60, 90), (100, 100), count, num_classes=3) for count in (3, 0, 9)]
    logits, _, boxes = random_predictions(3)
    with Synchronising() as synchronising:
        losses = BipartiteMatchLoss()(logits, boxes, targets_from(samples))
        sum(losses.values()).backward()
    assert copies == [(2 * 3, 9, 5)]  # the costs of all layers and images, 5 queries and up to 9 objects each
    assert not synchronising.seen


def test_class_weight_counts_in_numerator_and_denominator():
    class_weight = [1.0, 2.0, 3.0, 0.1]
    loss = BipartiteMatchLoss(loss_cls={'type': 'CrossEntropyLoss', 'class_weight': class_weight}, no_object_weight=1.0)
    logits, _, boxes = random_predictions(1)
    targets = targets_from([random_sample((50, 50), None, 3, num_classes=3)])
    matches = loss.assigner.match(logits[-1:], boxes[-1:], targets)
    goal = torch.full((5,), 3)
    goal[matches.queries] = targets.labels[0][matches.targets]
    expected = torch.nn.functional.cross_entropy(logits[-1, 0], goal, weight=torch.tensor(class_weight))
    assert loss(logits, boxes, targets)['loss_cls'].item() == pytest.approx(expected.item(), rel=1e-5)


def test_overflown_predictions_give_a_loss_that_a_gradient_scaler_skips():
    logits, _, boxes = random_predictions(1)
    with torch.no_grad():
        logits[-1, 0, 0] = float('inf')
    losses = BipartiteMatchLoss()(logits, boxes, targets_from([random_sample((50, 50), None, 3, num_classes=3)]))
    assert not torch.isfinite(losses['loss_cls'])
    assert torch.isfinite(losses['d0.loss_cls'])


def test_losses_by_config():
    """Smooth L1, DIoU and a sigmoid focal loss without a no-object output replace the default losses."""
    loss = BipartiteMatchLoss(
        assigner={
            'type': 'mmdet_detr.HungarianAssigner',
            'match_costs': [{'type': 'FocalLossCost', 'weight': 2.0}, {'type': 'BBoxL1Cost', 'box_format': 'xywh'}],
        },
        loss_cls={'type': 'FocalLoss', 'use_sigmoid': True, 'gamma': 0.0, 'alpha': 0.5, 'loss_weight': 2.0},
        loss_bbox={'type': 'SmoothL1Loss', 'beta': 1e-9},
        loss_iou={'type': 'DIoULoss'},
    )
    sample = random_sample((50, 50), None, 2, num_classes=3)
    logits, _, boxes = random_predictions(1)
    logits = logits[..., :3]
    targets = targets_from([sample])
    losses = loss(logits, boxes, targets)
    goal = torch.zeros(5, 3)
    matches = loss.assigner.match(logits[-1:], boxes[-1:], targets)
    goal[matches.queries, targets.labels[0][matches.targets]] = 1
    # With gamma 0 and alpha 0.5, the focal loss is half the binary cross-entropy.
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits[-1, 0], goal, reduction='sum')
    assert losses['loss_cls'].item() == pytest.approx(2.0 * 0.5 * entropy.item() / 2, rel=1e-5)
    l1 = (boxes[-1, 0][matches.queries] - targets.boxes[0][matches.targets]).abs().sum() / 2
    assert losses['loss_bbox'].item() == pytest.approx(l1.item(), rel=1e-5)


def test_statistics_by_hand():
    """Two images, three queries, two classes. The first image has objects of classes 0 and 1, the second has none."""
    boxes = torch.tensor([[5.0, 5.0, 15.0, 15.0], [20.0, 20.0, 40.0, 40.0]])
    samples = [make_sample((50, 50), boxes=boxes, labels=torch.tensor([0, 1])), make_sample((50, 50))]
    first, second, far = [0.2, 0.2, 0.2, 0.2], [0.6, 0.6, 0.4, 0.4], [0.9, 0.9, 0.1, 0.1]
    predicted = torch.tensor([[[first, second, far], [far, far, far]]])
    object_0, object_1, nothing = [3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]
    logits = torch.tensor([[[object_0, object_0, nothing], [object_1, object_1, object_0]]])
    losses = BipartiteMatchLoss()(logits, predicted, targets_from(samples))
    assert losses['class_error'] == 50  # the second object is predicted as class 0
    assert losses['cardinality_error'] == 1.5  # 2 predicted for 2 objects, and 3 for none
    assert losses['matched_queries'] == 1
    assert losses['query_spread'].item() == pytest.approx(np.std([first, second, far], axis=0).mean() / 2)


@pytest.mark.parametrize('use_sigmoid', [False, True])
def test_statistics_equal_the_plain_reference(use_sigmoid):
    loss_cls = {'type': 'FocalLoss', 'use_sigmoid': True} if use_sigmoid else {'type': 'CrossEntropyLoss'}
    loss = BipartiteMatchLoss(loss_cls=loss_cls)
    counts = [2, 0, 4]
    targets = targets_from([random_sample((60, 90), (100, 100), count, num_classes=3) for count in counts])
    logits, _, boxes = random_predictions(3, num_classes=2 if use_sigmoid else 3)
    losses = loss(logits, boxes, targets)
    matches = loss.assigner.match(logits[-1:], boxes[-1:], targets)
    right = [
        int(logits[-1].flatten(0, 1)[query].argmax()) == int(targets.labels.flatten()[target])
        for query, target in zip(matches.queries, matches.targets, strict=True)
    ]
    assert losses['class_error'].item() == pytest.approx(100 * (1 - np.mean(right)))
    is_object = logits[-1].sigmoid().amax(-1) > 0.5 if use_sigmoid else logits[-1].argmax(-1) != 3
    predicted = is_object.sum(1)
    assert losses['cardinality_error'].item() == pytest.approx(np.abs(predicted.numpy() - counts).mean())
    assert losses['matched_queries'] == 2


def test_gradients_can_be_taken_twice_and_scaled():
    logits, raw, boxes = random_predictions(2)
    targets = targets_from([random_sample((60, 90), None, count, num_classes=3) for count in (3, 1)])
    losses = BipartiteMatchLoss()(logits, boxes, targets)
    each = [torch.autograd.grad(losses[name], (logits, raw), retain_graph=True, allow_unused=True) for name in NAMES]
    weighted = torch.autograd.grad(sum((k + 1) * losses[name] for k, name in enumerate(NAMES)), (logits, raw))
    for position, gradient in enumerate(weighted):
        parts = [(k + 1) * g[position] for k, g in enumerate(each) if g[position] is not None]
        torch.testing.assert_close(gradient, sum(parts))


def test_no_gradient_asked_for():
    """Losses work in validation, and if only one branch is trained."""
    logits, _, boxes = random_predictions(1)
    targets = targets_from([random_sample((60, 90), None, 2, num_classes=3)])
    with torch.no_grad():
        assert not BipartiteMatchLoss()(logits, boxes, targets)['loss_cls'].requires_grad
    losses = BipartiteMatchLoss()(logits, boxes.detach(), targets)
    sum(losses.values()).backward()
    assert logits.grad.abs().sum() > 0


def test_an_infinite_loss_leaves_no_finite_gradient():
    """A logit of -inf at the true class has a finite gradient in softmax, but the step must be skipped."""
    logits, _, boxes = random_predictions(1)
    targets = targets_from([random_sample((50, 50), None, 5, num_classes=3)])  # every query has an object
    with torch.no_grad():
        logits[-1, 0, :, :3] = -float('inf')
    losses = BipartiteMatchLoss()(logits, boxes, targets)
    assert losses['loss_cls'].isinf()
    sum(losses.values()).backward()
    assert logits.grad[-1].isnan().any()
    assert torch.isfinite(logits.grad[0]).all()


def test_no_weight_for_no_object():
    losses = BipartiteMatchLoss(no_object_weight=0.0)(
        torch.randn(1, 1, 3, 4), torch.rand(1, 1, 3, 4), targets_from([make_sample((9, 9))])
    )
    assert losses['loss_cls'] == 0


def test_mixed_precision_of_logits_and_boxes():
    logits, raw, boxes = random_predictions(1)
    targets = targets_from([random_sample((50, 50), None, 2, num_classes=3)])
    sum(BipartiteMatchLoss()(logits.double(), boxes, targets).values()).backward()
    assert torch.isfinite(raw.grad).all()


def test_one_query_has_no_spread():
    losses = BipartiteMatchLoss()(torch.randn(1, 1, 1, 4), torch.rand(1, 1, 1, 4), targets_from([make_sample((9, 9))]))
    assert 'query_spread' not in losses


def value_and_gradient(function, x: torch.Tensor, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    values = function(x).view(len(upstream), -1).sum(1)
    return values.detach(), torch.autograd.grad((values * upstream).sum(), x)[0]


@pytest.mark.parametrize(
    'settings', [{'loss_weight': 3.0}, {'gamma': 1.5, 'alpha': 1.0}, {'gamma': 0.5}, {'gamma': 0.0}]
)
def test_focal_loss_equals_mmdet(settings):
    """mmdet's needs no operator on the CPU, and is the reference there."""
    loss = MODELS.build({'type': 'FocalLoss', 'use_sigmoid': True, **settings})
    logits, labels, upstream = torch.randn(9, 4).double() * 3, torch.randint(5, (9,)), torch.rand(9).double()
    expected = value_and_gradient(lambda x: loss(x, labels, reduction_override='none'), logits, upstream)
    got = value_and_gradient(lambda x: focal_loss(loss, x, labels), logits, upstream)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_focal_loss_far_out():
    """No overflow where sigmoid is 0 or 1."""
    loss = MODELS.build({'type': 'FocalLoss', 'use_sigmoid': True})
    logits, labels = torch.tensor([[-500.0, 500.0], [500.0, -500.0]]), torch.tensor([0, 0])
    values, gradient = value_and_gradient(lambda x: focal_loss(loss, x, labels), logits, torch.ones(2))
    assert values.tolist() == pytest.approx([0.25 * 500 + 0.75 * 500, 0])
    assert gradient.flatten().tolist() == pytest.approx([-0.25, 0.75, 0, 0])


coordinates = st.floats(0.05, 0.95)
box = st.tuples(coordinates, coordinates, st.floats(0.01, 0.9), st.floats(0.01, 0.9))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(box, box), min_size=1, max_size=5), st.booleans(), st.sampled_from([1e-9, 1e-2]))
def test_iou_equals_mmdet(pairs, generalised, eps):
    """Boxes apart, touching, one inside the other; the larger ``eps`` bounds the areas of small boxes."""
    boxes, goal = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    # Corners that coincide have no derivative.
    boxes = boxes + 1e-7 * (bbox_cxcywh_to_xyxy(boxes) == bbox_cxcywh_to_xyxy(goal)).any()
    corners, upstream = bbox_cxcywh_to_xyxy(goal), torch.ones(len(boxes))
    settings_of_mmdet = {'mode': 'giou' if generalised else 'iou', 'is_aligned': True, 'eps': eps}
    expected = value_and_gradient(
        lambda x: bbox_overlaps(bbox_cxcywh_to_xyxy(x), corners, **settings_of_mmdet), boxes, upstream
    )
    got = value_and_gradient(lambda x: iou_of(x.t(), goal.t(), generalised, eps), boxes, upstream)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ('part', 'config'),
    [
        ('loss_iou', {'type': 'DIoULoss', 'loss_weight': 2.0}),
        ('loss_bbox', {'type': 'SmoothL1Loss', 'beta': 0.5}),
        ('loss_cls', {'type': 'CrossEntropyLoss', 'use_sigmoid': True}),
    ],
)
def test_any_loss_of_mmdet(part, config):
    """The loss is computed on the matched pairs, and its gradient reaches the predictions."""
    loss = BipartiteMatchLoss(**{part: config})
    logits, raw, boxes = random_predictions(1)
    logits = logits[..., :3] if part == 'loss_cls' else logits
    targets = targets_from([random_sample((50, 50), None, 2, num_classes=3)])
    matches = loss.assigner.match(logits[-1:], boxes[-1:], targets)
    found, goal = boxes[-1, 0][matches.queries], targets.boxes[0][matches.targets]
    if part == 'loss_cls':
        labels = torch.full((5,), 3)
        labels[matches.queries] = targets.labels[0][matches.targets]
        expected = MODELS.build(config)(logits[-1, 0], labels, reduction_override='none').sum() / 2
    elif part == 'loss_iou':
        corners = bbox_cxcywh_to_xyxy(found), bbox_cxcywh_to_xyxy(goal)
        expected = MODELS.build(config)(*corners, reduction_override='none').sum() / 2
    else:
        expected = MODELS.build(config)(found, goal, reduction_override='none').sum() / 2
    got = loss(logits, boxes, targets)[part]
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    leaf = logits if part == 'loss_cls' else raw
    torch.testing.assert_close(*(torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (got, expected)))
