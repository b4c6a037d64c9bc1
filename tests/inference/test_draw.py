import numpy as np
import pytest

from mmdet_detr.inference import Result
from mmdet_detr.inference.draw import Painter

CLASSES = ('cat', 'dog', 'sky')
PALETTE = [(250, 0, 0), (0, 200, 0), (0, 0, 250)]
GREY = np.full((500, 600, 3), 90, dtype=np.uint8)


def result(boxes: list[list[float]], labels: list[int], **more: np.ndarray) -> Result:
    scores = np.linspace(0.9, 0.6, len(boxes), dtype=np.float32)
    return Result(np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(labels, int), CLASSES, **more)


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour[::-1]).all(-1)


def test_boxes_have_the_colours_of_their_classes():
    image = GREY.copy()
    picture = Painter(CLASSES, PALETTE).draw(image, result([[100, 100, 200, 220], [300, 300, 420, 400]], [0, 1]))
    assert picture.shape == image.shape
    assert (image == 90).all()
    for box, colour in (((100, 100, 200, 220), PALETTE[0]), ((300, 300, 420, 400), PALETTE[1])):
        x1, y1, x2, y2 = box
        found = has(picture, colour)
        assert found[y2, x1 + 5 : x2 - 5].all()
        assert found[y1 + 5 : y2 - 5, x2].all()
        assert found[y1 - 12 : y1 - 2, x1 : x1 + 40].any()  # the name
        assert not found[y1 + 10 : y2 - 10, x1 + 10 : x2 - 10].any()


def test_nothing_found_is_the_image():
    assert (Painter(CLASSES).draw(GREY, result([], [])) == GREY).all()


def test_masks_are_blended():
    mask = np.zeros((1, 500, 600), bool)
    mask[0, 150:200, 120:180] = True
    picture = Painter(CLASSES, PALETTE).draw(GREY, result([[100, 100, 200, 220]], [0], masks=mask))
    assert picture[175, 150].tolist() == pytest.approx([90 * 0.55, 90 * 0.55, 90 * 0.55 + 250 * 0.45], abs=1)
    assert picture[130, 150].tolist() == [90, 90, 90]


def test_small_images_are_enlarged():
    masks = np.zeros((1, 64, 100), bool)
    masks[0, 20:30, 20:40] = True
    picture = Painter(CLASSES, PALETTE).draw(GREY[:64, :100], result([[10, 10, 50, 40]], [0], masks=masks))
    assert picture.shape == (256, 400, 3)
    assert has(picture, PALETTE[0])[160, 60:180].all()
    assert picture[100, 120].tolist() != [90, 90, 90]


def test_crowded_pictures_name_the_surest():
    """A thousand names would cover everything; the best ten percent of the names are there."""
    boxes = [[x, y, x + 15, y + 15] for y in range(0, 500, 16) for x in range(0, 600, 16)]
    picture = Painter(CLASSES, PALETTE).draw(GREY, result(boxes, [0] * len(boxes)))
    assert 0.2 < has(picture, PALETTE[0]).mean() < 0.6
    assert (picture == 90).all(-1).mean() > 0.3


def test_panoptic_map():
    values = np.full((500, 600), 2)
    values[:100] = 1000
    values[300:, :300] = 3  # nothing found
    found = result([[0, 0, 600, 100]], [0], panoptic=values)
    painter = Painter(CLASSES, PALETTE)
    picture = painter.draw(GREY, found)
    assert picture[50, 50].tolist() == pytest.approx([36, 36, 36 + 150], abs=1)
    assert picture[200, 50].tolist() == pytest.approx([36 + 150, 36, 36], abs=1)
    assert picture[400, 50].tolist() == [90, 90, 90]
    assert picture.shape[1] > 600
    assert has(picture[:, 600:], PALETTE[0]).any()
    assert not has(picture[:, 600:], PALETTE[1]).any()
    width = painter.legend_width(GREY)
    for image_result in (found, result([], [], panoptic=np.full((500, 600), 3))):  # frames of a video
        assert painter.draw(GREY, image_result, width).shape == (500, 600 + width, 3)
