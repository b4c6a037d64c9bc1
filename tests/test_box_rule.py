"""Reader, data check and loss take and leave the same boxes."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import make_sample, targets_from
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmdet.registry import DATASETS

from mmdet_detr.box_rule import FARTHEST, overlaps
from mmdet_detr.data_check import Source, check_split
from mmdet_detr.models import BipartiteMatchLoss

WIDTH, HEIGHT = 100, 64
HUGE = [2.0**30, 1e20, 3e38, 1e39, 1e300, float('inf'), float('nan')]

edges = st.sampled_from([0, 1, 1 - 2**-53, 1 - 2**-20, 1e-7, WIDTH, HEIGHT, *HUGE, WIDTH * FARTHEST])
near = st.builds(lambda edge, step: edge + step, edges, st.sampled_from([0, 1e-9, -1e-9, 1e-5, -1e-5]))
numbers = near | near.map(lambda value: -value) | st.floats(-150, 150) | st.integers(-150, 150) | st.floats()
boxes = st.lists(numbers, min_size=4, max_size=4)


def document(found: list[list[float]]) -> dict:
    return {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': WIDTH, 'height': HEIGHT}],
        'categories': [{'id': 1, 'name': 'thing'}],
        'annotations': [
            {'id': i, 'image_id': 1, 'category_id': 1, 'bbox': box, 'iscrowd': 0} for i, box in enumerate(found, 1)
        ],
    }


def of_reader(path) -> np.ndarray:
    """Corners that a training gets: float32 (N, 4) in pixels."""
    config = {
        'type': 'mmdet_detr.RobustCocoDataset',
        'ann_file': str(path),
        'data_prefix': {'img': ''},
        'metainfo': {'classes': ('thing',)},
        'max_broken': 1.0,
        'lazy_init': True,
    }
    (info,) = DATASETS.build(config).load_data_list()
    return np.array([instance['bbox'] for instance in info['instances']], dtype=np.float32).reshape(-1, 4)


def of_check(path) -> int:
    """How many boxes the data check takes."""
    source = Source(('train',), str(path), str(path.parent), ('thing',))
    with ThreadPoolExecutor(1) as pool:
        return check_split(source, None, None, False, pool, lambda done, total: None).objects[1]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(boxes, max_size=6))
@example([[WIDTH - 1e-9, 1, 5, 5], [WIDTH - 1, 1, 5, 5], [-5, 1, 5 + 1e-12, 5], [1, 1, 1e39, 5], [0, 0, 1, 1]])
@example([[1, 1, 1 - 2**-20, 5], [1, 1, 5, 1 - 2**-53], [1, 1, -5, 5], [1, 1, 5, 0]])
@example([[-WIDTH * FARTHEST, 1, WIDTH * FARTHEST + 5, 5], [1, 1, WIDTH * FARTHEST, 5]])
def test_reader_check_and_loss_agree(tmp_path_factory, found):
    path = tmp_path_factory.mktemp('boxes') / 'file.json'
    path.write_text(json.dumps(document(found)))
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in found], dtype=np.float64).reshape(-1, 4)
    with np.errstate(over='ignore'):
        corners = corners.astype(np.float32)
    valid = targets_from([make_sample((HEIGHT, WIDTH), boxes=torch.from_numpy(corners))]).valid[0].numpy()
    thin = np.array([w < 1 or h < 1 for _, _, w, h in found], dtype=bool)  # the loss sees resized and cropped boxes
    np.testing.assert_array_equal(of_reader(path), corners[valid & ~thin])
    assert of_check(path) == (valid & ~thin).sum()


@pytest.mark.parametrize(
    ('low', 'high', 'side', 'expected'),
    [
        (0, 10, 10, True),
        (9.5, 12, 10, True),
        (10, 12, 10, False),
        (-3, 0, 10, False),
        (-3, 0.001, 10, True),
        (5, 5, 10, False),
        (6, 5, 10, False),
        (float('nan'), 5, 10, False),
        (1, float('nan'), 10, False),
        (-float('inf'), 5, 10, False),
        (1, float('inf'), 10, False),
        (-FARTHEST * 10, 5, 10, False),
        (-FARTHEST * 9.9, FARTHEST * 9.9, 10, True),
    ],
)
def test_numbers_and_tensors(low, high, side, expected):
    assert overlaps(low, high, side) is expected
    tensors = (torch.tensor([value], dtype=torch.float32) for value in (low, high))
    assert overlaps(*tensors, side).tolist() == [expected]


def test_what_is_left_of_a_crop_is_learnt():
    """A crop cuts an object to a tenth of a pixel; the official code keeps it too."""
    assert targets_from([make_sample((HEIGHT, WIDTH), boxes=torch.tensor([[0.0, 3.0, 0.1, 40.0]]))]).valid.all()


def test_the_farthest_box_has_finite_losses_and_gradients():
    far = FARTHEST * 0.99
    box = torch.tensor([[-far * WIDTH, -far * HEIGHT, far * WIDTH, far * HEIGHT]])
    targets = targets_from([make_sample((HEIGHT, WIDTH), boxes=box)], num_classes=3)
    assert targets.valid.all()
    logits, boxes = (torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in '12')
    losses = BipartiteMatchLoss()(logits, boxes, targets)
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert total.isfinite()
    assert boxes.grad.isfinite().all()
