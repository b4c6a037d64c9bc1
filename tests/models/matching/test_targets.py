import pytest
import torch
from helpers import make_sample, targets_from

from mmdet_detr.models import BipartiteMatchLoss
from mmdet_detr.models.matching.targets import image_name

NAN, INF = float('nan'), float('inf')
BAD = {  # boxes in an image of 100 x 50 pixels, and labels of 3 classes
    'no width': ([20.0, 10.0, 20.0, 30.0], 0),
    'negative height': ([20.0, 30.0, 40.0, 10.0], 0),
    'right of the image': ([100.0, 10.0, 120.0, 30.0], 0),
    'above the image': ([10.0, -20.0, 30.0, 0.0], 0),
    'NaN': ([10.0, NAN, 30.0, 20.0], 0),
    'infinite': ([10.0, 10.0, INF, 20.0], 0),
    'from minus infinity': ([-INF, 10.0, 20.0, 20.0], 0),
    'negative label': ([10.0, 10.0, 20.0, 20.0], -1),
    'label too large': ([10.0, 10.0, 20.0, 20.0], 3),
}
GOOD = [[10.0, 10.0, 20.0, 20.0], [-5.0, -5.0, 200.0, 20.0], [90.0, 45.0, 100.0, 50.0]]


def sample_with(box: list[float], label: int):
    """Two good annotations around one bad."""
    return make_sample((50, 100), (64, 128), torch.tensor([GOOD[0], box, GOOD[1]]), torch.tensor([2, label, 1]))


def test_units_of_the_unpadded_image():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    samples = [make_sample((80, 40), (100, 100), boxes, torch.tensor([2])), make_sample((100, 100))]
    targets = targets_from(samples)
    assert targets.valid.tolist() == [[True], [False]]
    assert targets.labels.tolist() == [[2], [0]]
    assert targets.boxes[0, 0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize('box', GOOD, ids=str)
def test_boxes_that_reach_out_of_the_image_stay_as_they_are(box):
    targets = targets_from([make_sample((50, 100), boxes=torch.tensor([box]))])
    assert targets.valid.all()
    x1, y1, x2, y2 = box
    expected = [(x1 + x2) / 200, (y1 + y2) / 100, (x2 - x1) / 100, (y2 - y1) / 50]
    assert targets.boxes[0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(('box', 'label'), BAD.values(), ids=BAD)
def test_a_bad_annotation_is_left_out(box, label):
    """The losses equal those of the image without it, also beside padding."""
    with_it, without = sample_with(box, label), sample_with(GOOD[2], 0)
    without.gt_instances = without.gt_instances[torch.tensor([0, 2])]
    targets = targets_from([with_it, make_sample((50, 100))], num_classes=3)
    assert targets.valid.tolist() == [[True, False, True], [False] * 3]
    logits, boxes = torch.randn(2, 2, 5, 4), torch.rand(2, 2, 5, 4)
    loss = BipartiteMatchLoss()
    losses = loss(logits, boxes, targets)
    expected = loss(logits, boxes, targets_from([without, make_sample((50, 100))], num_classes=3))
    assert losses == expected
    assert loss.dropped == {'image.jpg (image 0)': 1}


@pytest.mark.parametrize(('box', 'label'), BAD.values(), ids=BAD)
def test_or_raises(box, label):
    targets = targets_from([make_sample((50, 100)), sample_with(box, label)], num_classes=3)
    logits, boxes = torch.randn(1, 2, 5, 4), torch.rand(1, 2, 5, 4)
    with pytest.raises(ValueError, match=rf'image.jpg \(image 0\): annotations \[1\] .* the label {label};'):
        BipartiteMatchLoss(on_bad_annotation='raise')(logits, boxes, targets)


def test_refuses_other_ways():
    with pytest.raises(ValueError, match="got 'ignore'"):
        BipartiteMatchLoss(on_bad_annotation='ignore')


@pytest.mark.parametrize(
    ('meta', 'name'),
    [
        ({'img_path': 'a.jpg', 'img_id': 3}, 'a.jpg (image 3)'),
        ({'img_path': 'a.jpg'}, 'a.jpg'),
        ({'img_id': 3}, 'image 3'),
        (None, 'image without path and id'),
    ],
)
def test_image_name(meta, name):
    assert image_name(meta) == name
