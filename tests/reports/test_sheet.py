import numpy as np
import pytest
import supervision

from mmdet_detr.reports.sheet import GAP, LINE, PAIR_GAP, Pair, draw_boxes, sheet


def pair(number: int, size: tuple[int, int]) -> Pair:
    truth = np.full((*size, 3), (number, 0, 250), dtype=np.uint8)
    return Pair(f'{number}.jpg', truth, np.full((*size, 3), (number, 250, 0), dtype=np.uint8))


@pytest.mark.parametrize('columns', [1, 2, 5])
def test_every_picture_is_whole_and_has_room(columns):
    sizes = [(30, 50), (40, 60), (20, 60)]
    pairs = [pair(number, size) for number, size in enumerate(sizes, 1)]
    page = sheet(pairs, columns, [('cat', (9, 9, 9))], 'score ≥ 0.5')
    columns = min(columns, 3)
    assert page.shape[1] == columns * (2 * 60 + PAIR_GAP + GAP) + GAP
    for one, (height, width) in zip(pairs, sizes, strict=True):
        truth, found = ((page == picture[0, 0]).all(-1) for picture in (one.truth, one.found))
        assert truth.sum() == found.sum() == height * width
        rows, left, right = truth.any(1).nonzero()[0], truth.any(0).nonzero()[0], found.any(0).nonzero()[0]
        assert found.any(1).nonzero()[0].tolist() == rows.tolist()
        assert right[0] - left[0] == 60 + PAIR_GAP
        above = page[rows[0] - LINE : rows[0], left[0] : right[-1]]
        assert (above != 255).any()  # the name of the file
    assert ((page == 9).all(-1)).sum() > 100  # the square of the legend


def test_a_legend_takes_as_many_rows_as_it_needs():
    names = [(f'class {number}', (number, 1, 1)) for number in range(10)]
    one, many = (sheet([pair(1, (60, 60))], 1, classes, '') for classes in (names[:1], names))
    assert one.shape[1] == many.shape[1]
    assert (many.shape[0] - one.shape[0]) % LINE == 0
    for _, colour in names:
        assert (many == colour).all(-1).any()


@pytest.mark.parametrize('texts', [['', ''], ['97', '55']])
def test_boxes_have_the_colours_of_their_classes(texts):
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    objects = supervision.Detections(xyxy=np.array([[5, 25, 30, 50], [40, 25, 70, 55.0]]), class_id=np.array([0, 1]))
    picture = draw_boxes(image, objects, [(200, 0, 0), (0, 0, 200)], texts)
    assert picture[40, 5].tolist() == [200, 0, 0]
    assert picture[40, 40].tolist() == [0, 0, 200]
    assert (picture[:22] != 0).any() == any(texts)
    assert not image.any()


def test_an_image_without_objects_stays_as_it_is():
    image = np.full((20, 20, 3), 7, dtype=np.uint8)
    objects = supervision.Detections(xyxy=np.zeros((0, 4)), class_id=np.zeros(0, dtype=int))
    assert np.array_equal(draw_boxes(image, objects, [(200, 0, 0)], []), image)
