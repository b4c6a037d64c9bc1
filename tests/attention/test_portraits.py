"""Boxes of all queries over a data set."""

import json
import shutil

import cv2
import numpy as np
import pytest
from attention_images import IMAGE

from mmdet_detr.attention import Portraits, attend, find_images, portray
from mmdet_detr.attention.pictures import draw_portraits, size_colours
from mmdet_detr.errors import ConfigError, UserError


def test_boxes_are_those_of_the_last_layer(detector, tmp_path):
    paths = [tmp_path / 'a.png', tmp_path / 'b.png']
    for path, image in zip(paths, (IMAGE, IMAGE[:30]), strict=True):
        cv2.imwrite(str(path), image)
    got = portray(detector, paths)
    assert got.boxes.shape == (2, 10, 4)
    for number, path in enumerate(paths):
        found = attend(detector, path)
        last, (height, width) = found.layers[-1], found.size
        centres, sizes = got.boxes[number, :, :2], got.boxes[number, :, 2:]
        boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), 1).clip(0, 1)
        np.testing.assert_allclose(boxes * ([width, height] * 2), last.boxes, atol=1e-3)
        np.testing.assert_allclose(got.scores[number], last.scores, atol=1e-6)
    with pytest.raises(ConfigError, match='there are no images'):
        portray(detector, [])


def test_the_busiest_queries():
    scores = np.array([[0.9, 0.1, 0.5, 0.2], [0.6, 0.2, 0.5, 0.1], [0.1, 0.3, 0.7, 0.0]])
    portraits = Portraits(np.zeros((3, 4, 4)), scores)
    assert portraits.busiest(3, 0.5).tolist() == [2, 0, 1]
    assert portraits.busiest(20, 0.65).tolist() == [0, 2, 1, 3]


def test_colours_tell_sizes():
    sides = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.2, 0.1]])
    expected = [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [0.2, 0.8, 0.1]]
    np.testing.assert_allclose(size_colours(*sides.T), expected)


def test_a_picture_of_each_query():
    generator = np.random.default_rng(0)
    portraits = Portraits(generator.random((6, 25, 4)), generator.random((6, 25)))
    figure = draw_portraits(portraits, 0.5)
    shown = [axis for axis in figure.axes if axis.axison]
    queries = portraits.busiest(20, 0.5)
    assert len(shown) == 20
    counts = (portraits.scores >= 0.5).sum(0)
    assert [axis.get_title() for axis in shown] == [f'query {query}: {counts[query]} found' for query in queries]
    dots = shown[3].collections[0]
    boxes = portraits.boxes[:, queries[3]]
    np.testing.assert_allclose(dots.get_offsets(), boxes[:, :2])
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], size_colours(boxes[:, 2], boxes[:, 3]))
    assert shown[3].get_ylim() == (1, 0)  # the top of the image is above
    assert figure.get_suptitle().startswith('Where 20 of 25 queries put their boxes in 6 images')


def test_images_of_a_data_set(detector, shapes, tmp_path):
    """Those of the config, or of a COCO file: in a folder, in that of the config's images, or beside the file."""
    dataset = detector.model.cfg.test_dataloader.dataset
    before = dict(dataset)
    try:
        dataset.data_root = f'{shapes}/'
        names = [f'{number:06}.jpg' for number in range(4)]
        expected = [str(shapes / 'val' / name) for name in names]
        assert find_images(detector) == expected
        file = shapes / 'annotations' / 'instances_val.json'
        assert find_images(detector, file) == expected
        dataset.data_root = 'nowhere/'
        with pytest.raises(ConfigError, match='the test data of the config cannot be read'):
            find_images(detector)
        assert find_images(detector, file, shapes / 'val') == expected
        with pytest.raises(UserError, match=r'000000.jpg is not in nowhere/val or .*annotations: name the folder'):
            find_images(detector, file)
        shutil.copy(file, shapes / 'val' / 'here.json')
        assert find_images(detector, shapes / 'val' / 'here.json') == expected
        (shapes / 'val' / 'here.json').unlink()
    finally:
        dataset.update(before)
    for content, message in (('[]', 'is no annotation file of COCO'), ('{', 'is no annotation'), (None, 'no images')):
        (tmp_path / 'a.json').write_text(json.dumps({'images': []}) if content is None else content)
        with pytest.raises(UserError, match=message):
            find_images(detector, tmp_path / 'a.json')
