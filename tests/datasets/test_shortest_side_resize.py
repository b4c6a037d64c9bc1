import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from PIL import Image

from mmdet_detr.datasets.shortest_side_resize import ShortestSideResize, official_size

# (width, height) -> size that the official code gives for shortest side 800, longest 1333; by hand
OFFICIAL_SIZES = [
    ((640, 480), (1066, 800)),  # int(800 * 640 / 480) = int(1066.67)
    ((480, 640), (800, 1066)),
    ((500, 500), (800, 800)),
    ((640, 360), (1333, 750)),  # bounded: round(1333 * 360 / 640) = 750, int(750 * 640 / 360) = 1333
    ((640, 427), (1199, 800)),
    ((640, 356), (1332, 741)),  # round(741.48) = 741, int(741 * 640 / 356) = int(1332.1)
    ((640, 353), (1332, 735)),  # round(735.2) = 735, int(735 * 640 / 353) = int(1332.6)
    ((3840, 2160), (1333, 750)),
    ((10, 1000), (13, 1300)),  # round(13.33) = 13
    ((1, 5000), (1, 5000)),  # the shorter side never vanishes
]


@pytest.mark.parametrize(('size', 'expected'), OFFICIAL_SIZES)
def test_official_size(size, expected):
    assert official_size(*size, shortest=800, longest=1333) == expected


def test_longer_side_can_end_a_pixel_above_the_bound():
    # round(1333 * 300 / 1373) = round(291.26) = 291 and int(291 * 1373 / 300) = 1331; rounding up gives the most
    sizes = {max(official_size(300, height, 800, 1333)) for height in range(900, 1400)}
    assert max(sizes) == 1335
    assert official_size(300, 1373, 800, 1333) == (291, 1331)


def test_without_bound():
    assert official_size(1000, 100, shortest=400, longest=None) == (4000, 400)


def test_pixels_and_boxes():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    boxes = HorizontalBoxes(torch.tensor([[9.0, 6.0, 45.0, 30.0]]))
    transform = TRANSFORMS.build({'type': 'mmdet_detr.ShortestSideResize', 'sizes': [20]})
    results = transform({'img': image, 'img_shape': (60, 90), 'gt_bboxes': boxes})
    expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(results['img'], expected)
    assert results['img_shape'] == (20, 30)
    assert results['scale_factor'] == pytest.approx((1 / 3, 1 / 3))
    assert results['gt_bboxes'].tensor[0].tolist() == pytest.approx([3, 2, 15, 10])


def test_float_images_are_refused():
    with pytest.raises(ValueError, match='got float32'):
        ShortestSideResize(sizes=[20])({'img': np.zeros((60, 90, 3), np.float32)})


def test_draws_every_size_and_nothing_else():
    transform = ShortestSideResize(sizes=[20, 30, 40])
    drawn = {transform({'img': np.zeros((60, 90, 3), np.uint8)})['img_shape'] for _ in range(60)}
    assert drawn == {(20, 30), (30, 45), (40, 60)}
