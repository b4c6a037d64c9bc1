import itertools
import math

import numpy as np
import pytest
import torch
from helpers import make_sample, random_sample, reference_cost, reference_matches, targets_from
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmdet.models.task_modules.assigners import HungarianAssigner as MMDetHungarianAssigner
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from torch.profiler import ProfilerActivity, profile

from mmdet_detr.errors import ConfigError
from mmdet_detr.models.matching import HungarianAssigner
from mmdet_detr.models.matching.assigner import DETR_COSTS
from mmdet_detr.models.matching.targets import Targets

COUNTS = [3, 0, 5]


def random_problem(num_queries: int = 6, num_classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    logits = torch.randn(2, len(COUNTS), num_queries, num_classes + 1)
    boxes = torch.rand(2, len(COUNTS), num_queries, 4) * 0.4 + 0.1
    samples = [random_sample((48, 64), (64, 64), count, num_classes) for count in COUNTS]
    return logits, boxes, targets_from(samples, num_classes)


def test_cost_equals_the_plain_reference():
    logits, boxes, targets = random_problem()
    cost = HungarianAssigner().cost(logits, boxes, targets)
    for layer in range(2):
        for image, count in enumerate(COUNTS):
            arrays = (logits[layer, image], boxes[layer, image], targets.labels[image], targets.boxes[image])
            expected = reference_cost(*(array.numpy() for array in arrays))[:, :count]
            np.testing.assert_allclose(cost[layer, image, :, :count], expected, rtol=1e-5, atol=1e-6)


def pairs_of_image(matches, layer: int, image: int, num_queries: int) -> list[tuple[int, int]]:
    pairs = []
    for query, target in zip(matches.queries.tolist(), matches.targets.tolist(), strict=True):
        if query // num_queries == layer * len(COUNTS) + image:
            assert target // max(COUNTS) == image
            pairs.append((query % num_queries, target % max(COUNTS)))
    return pairs


@pytest.mark.parametrize('num_queries', [6, 4])  # more and fewer queries than objects
def test_matches_are_one_to_one_and_optimal(num_queries):
    logits, boxes, targets = random_problem(num_queries)
    assigner = HungarianAssigner()
    matches = assigner.match(logits, boxes, targets)
    cost = assigner.cost(logits, boxes, targets).numpy()
    for layer in range(2):
        for image, count in enumerate(COUNTS):
            pairs = pairs_of_image(matches, layer, image, num_queries)
            queries, objects = zip(*pairs, strict=True) if pairs else ((), ())
            assert len(set(queries)) == len(set(objects)) == len(pairs) == min(count, num_queries)
            assert all(target < count for target in objects)
            total = sum(cost[layer, image][pair] for pair in pairs)
            goal = cost[layer, image, :, :count]
            least = sum(goal[pair] for pair in reference_matches(goal))
            assert total == pytest.approx(least, rel=1e-5)


def test_layer_by_layer_order():
    matches = HungarianAssigner().match(*random_problem())
    layers = matches.queries // (len(COUNTS) * 6)
    assert layers.tolist() == [0] * sum(COUNTS) + [1] * sum(COUNTS)


def test_no_objects_at_all():
    logits, boxes, _ = random_problem()
    targets = targets_from([make_sample((10, 10))] * 3)
    matches = HungarianAssigner().match(logits, boxes, targets)
    assert len(matches.queries) == len(matches.targets) == 0
    assert matches.queries.dtype == torch.long


OTHER_COSTS = (
    {'type': 'FocalLossCost', 'weight': 2.0},
    {'type': 'BBoxL1Cost', 'weight': 3.0, 'box_format': 'xyxy'},
    {'type': 'IoUCost', 'iou_mode': 'iou', 'weight': 1.5},
)


@pytest.mark.parametrize('match_costs', [DETR_COSTS, OTHER_COSTS])
def test_equals_mmdet(match_costs):
    """``match`` and ``assign`` give the same pairs as mmdet's assigner with the same costs."""
    logits, boxes, targets = random_problem()
    ours, theirs = HungarianAssigner(match_costs), MMDetHungarianAssigner(list(match_costs))
    matches = ours.match(logits, boxes, targets)
    img_meta = {'img_shape': (480, 640)}
    pixels = torch.tensor([640, 480, 640, 480])
    for image, count in enumerate(COUNTS):
        predictions = InstanceData(scores=logits[1, image], bboxes=bbox_cxcywh_to_xyxy(boxes[1, image]) * pixels)
        gt = InstanceData(
            labels=targets.labels[image, :count], bboxes=bbox_cxcywh_to_xyxy(targets.boxes[image, :count]) * pixels
        )
        expected = theirs.assign(predictions, gt, img_meta)
        got = ours.assign(predictions, gt, img_meta)
        assert got.num_gts == expected.num_gts
        assert torch.equal(got.gt_inds, expected.gt_inds)
        assert torch.equal(got.labels, expected.labels)
        batched = torch.zeros(6, dtype=torch.long)
        for query, target in pairs_of_image(matches, 1, image, 6):
            batched[query] = target + 1
        assert torch.equal(batched, expected.gt_inds)


@pytest.mark.parametrize(
    ('cost', 'name'), [({'type': 'DiceCost'}, 'DiceCost'), ({'type': 'IoUCost', 'iou_mode': 'iof'}, "'iof'")]
)
def test_a_cost_without_batched_form_is_named(cost, name):
    with pytest.raises(ValueError, match=f'got {name}'):
        HungarianAssigner(cost).match(*random_problem())


def test_when_the_solver_of_the_device_is_used(monkeypatch):
    monkeypatch.setattr('mmdet_detr.models.matching.assigner.batch_linear_assignment', object())
    cuda, cpu = torch.device('cuda'), torch.device('cpu')
    assigner = HungarianAssigner(device_solver_from=50)
    assert assigner._solves_on_device(50, 100, cuda)
    assert not assigner._solves_on_device(49, 100, cuda)
    assert not assigner._solves_on_device(101, 100, cuda)  # the solver needs at least as many queries as objects
    assert not assigner._solves_on_device(50, 100, cpu)
    assert not HungarianAssigner()._solves_on_device(50, 100, cuda)
    monkeypatch.setattr('mmdet_detr.models.matching.assigner.batch_linear_assignment', None)  # not installed
    assert not assigner._solves_on_device(50, 100, cuda)
    with pytest.raises(ValueError, match='got 0'):
        HungarianAssigner(device_solver_from=0)


def test_single_cost_no_list_and_nothing():
    assert len(HungarianAssigner({'type': 'BBoxL1Cost'}).match_costs) == 1
    for nothing in ([], (), {}, None):
        with pytest.raises(ConfigError, match='at least one cost'):
            HungarianAssigner(nothing)


@pytest.mark.parametrize(
    ('costs', 'message'),
    [
        ([{'type': 'IoUCoast'}], "{'type': 'IoUCoast'} is no cost of mmdet: .*IoUCoast is not in the"),
        ([{'weight': 2.0}], 'is no cost of mmdet: .*"type"'),
        ([{'type': 'IoUCost', 'wait': 2.0}], "is no cost of mmdet: .*'wait'"),
        ([{'type': 'BBoxL1Cost', 'box_format': 'cxcywh'}], 'is no cost of mmdet'),
        (['IoUCost'], "'IoUCost' is no cost of mmdet"),
        ([{'type': 'MaxIoUAssigner', 'pos_iou_thr': 0.5, 'neg_iou_thr': 0.4}], 'is no cost, but a MaxIoUAssigner'),
    ],
)
def test_unknown_costs_are_one_line(costs, message):
    with pytest.raises(ValueError, match=f'^match_costs of HungarianAssigner: .*{message}') as raised:
        HungarianAssigner(costs)
    assert '\n' not in str(raised.value)


CLASS_COST, L1_COST, GIOU_COST = DETR_COSTS
LISTS_OF_MMDETS_TEST = [
    [CLASS_COST, L1_COST, GIOU_COST],
    [L1_COST],
    [{**L1_COST, 'weight': 1.0}],
    [{'type': 'IoUCost', 'iou_mode': 'iou'}],
    [GIOU_COST],
    [{'type': 'FocalLossCost'}, L1_COST, GIOU_COST],
    [{'type': 'FocalLossCost', 'weight': 1.0}],
]


@pytest.mark.parametrize('costs', LISTS_OF_MMDETS_TEST)
def test_what_mmdets_own_test_asks_of_an_assigner(costs):
    """Without objects nothing is assigned; of two objects each gets one prediction with its label."""
    assigner = HungarianAssigner(costs)
    predictions = InstanceData(scores=torch.rand(10, 81), bboxes=torch.rand(10, 4))
    nothing = InstanceData(bboxes=torch.empty(0, 4), labels=torch.empty(0).long())
    result = assigner.assign(predictions, nothing, {'img_shape': (10, 8)})
    assert (result.gt_inds == 0).all()
    assert (result.labels == -1).all()
    two = InstanceData(bboxes=torch.tensor([[0.0, 0, 5, 7], [3, 5, 7, 8]]), labels=torch.tensor([1, 20]))
    result = assigner.assign(predictions, two, {'img_shape': (10, 8)})
    assert (result.gt_inds > -1).all()
    assert (result.gt_inds > 0).sum() == (result.labels > -1).sum() == 2
    assert result.labels[result.gt_inds == 1].tolist() == [1]
    assert result.labels[result.gt_inds == 2].tolist() == [20]
    assert result.num_gts == 2


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_overflown_predictions_are_matched_last(bad):
    logits, boxes, targets = random_problem()
    logits[:, :, :1], boxes[:, :, :1] = bad, bad  # one query of six, and at most five objects
    matches = HungarianAssigner().match(logits, boxes, targets)
    assert len(matches.queries) == 2 * sum(COUNTS)
    assert 0 not in matches.queries % 6


def test_costs_in_float32_for_half_precision_input():
    logits, boxes, targets = random_problem()
    assert HungarianAssigner().cost(logits.half(), boxes.half(), targets).dtype == torch.float32


def test_assign_in_half_precision():
    """Areas of 1000 x 1000 pixels are too large for float16, so mmdet's costs overflow under autocast."""
    logits, boxes, targets = random_problem()
    pixels = torch.tensor([1333.0, 800.0, 1333.0, 800.0])
    predicted = InstanceData(scores=logits[0, 2], bboxes=bbox_cxcywh_to_xyxy(boxes[0, 2]) * pixels)
    gt = InstanceData(labels=targets.labels[2], bboxes=bbox_cxcywh_to_xyxy(targets.boxes[2]) * pixels)
    half = InstanceData(scores=predicted.scores.half(), bboxes=predicted.bboxes.half())
    meta = {'img_shape': (800, 1333)}
    rounded = InstanceData(scores=half.scores.float(), bboxes=half.bboxes.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = HungarianAssigner().assign(half, gt, meta)
    assert torch.equal(got.gt_inds, HungarianAssigner().assign(rounded, gt, meta).gt_inds)
    assert got.labels.dtype == torch.long


def test_assign_counts_what_is_not_finite():
    logits, boxes, targets = random_problem()
    gt = InstanceData(labels=targets.labels[2], bboxes=bbox_cxcywh_to_xyxy(targets.boxes[2]))
    logits[0, 2, 1:3] = torch.nan
    assigner = HungarianAssigner()
    assigner.assign(InstanceData(scores=logits[0, 2], bboxes=boxes[0, 2]), gt, {'img_shape': (1, 1), 'img_id': 7})
    assert assigner.non_finite == {('image 7', None): 2}


@pytest.mark.parametrize('chunk', [1, 50, 10**9])
def test_chunks_change_nothing(monkeypatch, chunk):
    problem = random_problem()
    expected = HungarianAssigner().cost(*problem)
    monkeypatch.setattr('mmdet_detr.models.matching.costs.CHUNK_ON_CPU', chunk)
    assert torch.equal(HungarianAssigner().cost(*problem), expected)


def test_a_thousand_objects_do_not_exhaust_memory():
    """Temporary tensors take at most as much memory as the costs. Without chunks they would take 12 times as much."""
    targets = targets_from([random_sample((480, 640), None, 1000, num_classes=5) for _ in range(2)])
    logits, boxes = torch.randn(6, 2, 100, 6), torch.rand(6, 2, 100, 4)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        cost = HungarianAssigner().cost(logits, boxes, targets)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    clock = 'start_ns' if hasattr(events[0], 'start_ns') else 'start_us'  # torch 2.1
    events.sort(key=lambda event: getattr(event, clock)())
    peak = max(itertools.accumulate(event.nbytes() for event in events))
    assert cost.nbytes == 6 * 2 * 100 * 1000 * 4
    assert cost.nbytes < peak < 2 * cost.nbytes


def test_leading_dimension_of_any_length():
    """With groups of queries, each group of each layer is a problem of its own."""
    logits, boxes, targets = random_problem()
    grouped = HungarianAssigner().match(logits.repeat(3, 1, 1, 1), boxes.repeat(3, 1, 1, 1), targets)
    alone = HungarianAssigner().match(logits, boxes, targets)
    assert torch.equal(grouped.queries % boxes[..., 0].numel(), alone.queries.repeat(3))
    assert torch.equal(grouped.targets, alone.targets.repeat(3))


scores = st.one_of(
    st.floats(-5, 5, width=32), st.sampled_from([0.0, 1e4, -1e4, 2.0**127, -math.inf, math.inf, math.nan])
)
coordinates = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.5, 1.0, 2.0**-100, math.nan]))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_predictions(data):
    """Matches are one-to-one and complete for any predictions, and optimal if all costs are finite."""
    num_queries, counts = data.draw(st.integers(1, 4)), data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=2))
    shape = (1, len(counts), num_queries)
    logits = torch.from_numpy(data.draw(arrays(np.float32, (*shape, 3), elements=scores)))
    boxes = torch.from_numpy(data.draw(arrays(np.float32, (*shape, 4), elements=coordinates)))
    targets = targets_from([random_sample((60, 80), None, count, num_classes=2) for count in counts])
    assigner = HungarianAssigner()
    matches = assigner.match(logits, boxes, targets)
    for image, count in enumerate(counts):
        mine = matches.queries // num_queries == image
        queries, objects = matches.queries[mine] % num_queries, matches.targets[mine] % max(*counts, 1)
        assert len(queries) == len(set(queries.tolist())) == len(set(objects.tolist())) == min(count, num_queries)
        arguments = (logits[0, image], boxes[0, image], targets.labels[image, :count], targets.boxes[image, :count])
        with np.errstate(all='ignore'):
            cost = reference_cost(*(argument.numpy() for argument in arguments)).astype(np.float64)
        if not np.isfinite(logits[0, image]).all() or not np.isfinite(cost).all():
            continue
        got = sum(cost[pair] for pair in zip(queries.tolist(), objects.tolist(), strict=True))
        assert got == pytest.approx(sum(cost[pair] for pair in reference_matches(cost)), abs=1e-4)
