import json

import numpy as np
import pytest
from helpers import PANOPTIC_SAMPLE
from mmdet.registry import TRANSFORMS
from panoptic_files import CAR, PERSON, SEGMENTS, SIZE, SKY, colours
from PIL import Image

from mmdet_detr.datasets import BrokenImageError, LoadPanopticSegments, PanopticDataset
from mmdet_detr.datasets.segment_map import read_segment_map
from mmdet_detr.datasets.shapes import STUFF, THINGS, ShapesOptions, draw_scene
from mmdet_detr.errors import ConfigError

INSTANCES = [
    {'segment_id': SKY, 'bbox_label': 2, 'bbox': [0, 0, 8, 4]},
    {'segment_id': PERSON, 'bbox_label': 0, 'bbox': [2, 1, 4, 4]},
    {'segment_id': CAR, 'bbox_label': 1},
]


def results(path, instances=INSTANCES) -> dict:
    return {'seg_map_path': str(path), 'instances': instances, 'width': SIZE[0], 'height': SIZE[1]}


@pytest.fixture
def png(tmp_path):
    colours(SEGMENTS).save(tmp_path / 'map.png')
    return tmp_path / 'map.png'


def test_masks_boxes_and_labels_are_in_one_order(png):
    loaded = TRANSFORMS.build({'type': 'mmdet_detr.LoadPanopticSegments'})(results(png))
    masks = loaded['gt_masks'].masks
    assert masks.dtype == np.uint8
    for mask, segment in zip(masks, (SKY, PERSON, CAR), strict=True):
        np.testing.assert_array_equal(mask, segment == SEGMENTS)
    assert loaded['gt_bboxes'].tensor.tolist() == [[0, 0, 7, 3], [2, 1, 3, 3], [5, 2, 6, 3]]  # pixels, both included
    assert loaded['gt_bboxes_labels'].tolist() == [2, 0, 1]
    assert loaded['gt_bboxes_labels'].dtype == np.int64
    assert loaded['gt_ignore_flags'].tolist() == [False] * 3


def test_annotated_boxes_and_where_they_are_missing(png):
    loaded = LoadPanopticSegments(box_from='json')(results(png))
    assert loaded['gt_bboxes'].tensor.tolist() == [[0, 0, 8, 4], [2, 1, 4, 4], [5, 2, 7, 4]]


def test_a_line_of_pixels_has_a_box(tmp_path):
    segments = np.zeros((6, 8), np.int32)
    segments[1:5, 3], segments[5] = PERSON, CAR
    colours(segments).save(tmp_path / 'lines.png')
    instances = [{'segment_id': PERSON, 'bbox_label': 0}, {'segment_id': CAR, 'bbox_label': 1}]
    for box_from, expected in (('masks', [[3, 1, 4, 4], [0, 5, 7, 6]]), ('json', [[3, 1, 4, 5], [0, 5, 8, 6]])):
        loaded = LoadPanopticSegments(box_from)(results(tmp_path / 'lines.png', instances))
        assert loaded['gt_bboxes'].tensor.tolist() == expected


def test_an_image_without_segments(png):
    loaded = LoadPanopticSegments()(results(png, instances=[]))
    assert loaded['gt_masks'].masks.shape == (0, 6, 8)
    assert loaded['gt_bboxes'].tensor.shape == (0, 4)
    assert len(loaded['gt_bboxes_labels']) == len(loaded['gt_ignore_flags']) == 0


def test_a_segment_without_a_pixel_is_left_out(png, monkeypatch):
    said = []
    monkeypatch.setattr('mmdet_detr.datasets.load_panoptic_segments.warn', said.append)
    load = LoadPanopticSegments()
    for _ in range(2):
        loaded = load(results(png, [INSTANCES[0], {'segment_id': 9, 'bbox_label': 0}, INSTANCES[1]]))
        assert loaded['gt_bboxes'].tensor.tolist() == [[0, 0, 7, 3], [2, 1, 3, 3]]
        assert loaded['gt_bboxes_labels'].tolist() == [2, 0]
        assert loaded['gt_masks'].masks.sum((1, 2)).tolist() == [24, 4]
    assert said == [f'{png}: no pixel of segment 9: left out']


def test_ids_use_all_three_bytes(png):
    read = read_segment_map(str(png), SIZE)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, SEGMENTS)
    Image.open(png).convert('RGBA').save(png)
    np.testing.assert_array_equal(read_segment_map(str(png), SIZE), SEGMENTS)


@pytest.mark.parametrize(
    ('spoil', 'said'),
    [
        (lambda path: path.unlink(), 'map.png: there is no such file'),
        (lambda path: path.write_bytes(b''), 'map.png: error'),
        (lambda path: path.write_text('text'), 'map.png: no image that OpenCV reads'),
        (lambda path: colours(SEGMENTS[:5]).save(path), 'map.png: 8 x 5 pixels, but 8 x 6 in the annotations'),
        (lambda path: Image.open(path).convert('L').save(path), 'map.png: segments are colours'),
    ],
)
def test_a_png_that_cannot_be_used(png, spoil, said):
    spoil(png)
    with pytest.raises(BrokenImageError, match=said):
        LoadPanopticSegments()(results(png))


def test_bad_options_and_other_data_sets(png):
    with pytest.raises(ConfigError, match=r"box_from has to be one of \('masks', 'json'\), got 'png'"):
        LoadPanopticSegments(box_from='png')
    with pytest.raises(ConfigError, match=r'None has no PNG of segments: LoadPanopticSegments needs a'):
        LoadPanopticSegments()({**results(png), 'seg_map_path': None})
    assert repr(LoadPanopticSegments()) == "LoadPanopticSegments(box_from='masks', backend_args=None)"


def test_generated_shapes(shapes):
    """Masks and labels are those of the scenes that were drawn."""
    pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'mmdet_detr.LoadPanopticSegments'}]
    data = PanopticDataset(
        data_root=str(shapes),
        ann_file='annotations/panoptic_val.json',
        data_prefix={'img': 'val/', 'seg': 'annotations/panoptic_val/'},
        metainfo={'classes': THINGS + STUFF},
        pipeline=pipeline,
        test_mode=True,
    )
    assert len(data) == 4
    assert data.metainfo['thing_classes'] == THINGS
    for number in range(4):
        scene = draw_scene(np.random.default_rng((0, 1, number)), ShapesOptions())
        loaded = data[number]
        kinds = [len(THINGS) + i for i in range(len(STUFF))] + [shape.category for shape in scene.shapes]
        seen = [segment for segment in range(len(kinds)) if (scene.segments == segment).any()]
        assert loaded['gt_bboxes_labels'].tolist() == [kinds[segment] for segment in seen]
        for mask, segment in zip(loaded['gt_masks'], seen, strict=True):
            np.testing.assert_array_equal(mask, scene.segments == segment)


@pytest.mark.skipif(not PANOPTIC_SAMPLE.is_dir(), reason=f'the two photographs are not at {PANOPTIC_SAMPLE}')
def test_photographs():
    """A box from the mask is one pixel less wide and high than the annotated one, and a mask has the annotated area."""
    data = PanopticDataset(
        data_root=str(PANOPTIC_SAMPLE),
        ann_file='panoptic_examples.json',
        data_prefix={'img': 'input_images', 'seg': 'panoptic_examples'},
    )
    document = json.loads((PANOPTIC_SAMPLE / 'panoptic_examples.json').read_text())
    names = {category['id']: category['name'] for category in document['categories']}
    total = 0
    for index, entry in enumerate(document['annotations']):
        info = data.get_data_info(index)
        assert info['img_id'] == entry['image_id']
        loaded = LoadPanopticSegments()(dict(info))
        given = entry['segments_info']
        annotated = np.array([segment['bbox'] for segment in given])
        annotated[:, 2:] += annotated[:, :2]
        assert np.unique(loaded['gt_bboxes'].tensor.numpy() - annotated, axis=0).tolist() == [[0, 0, -1, -1]]
        assert loaded['gt_masks'].masks.sum((1, 2)).tolist() == [segment['area'] for segment in given]
        labels = [data.metainfo['classes'][label] for label in loaded['gt_bboxes_labels']]
        assert labels == [names[segment['category_id']] for segment in given]
        json_boxes = LoadPanopticSegments(box_from='json')(dict(info))['gt_bboxes'].tensor.numpy()
        np.testing.assert_array_equal(json_boxes, annotated)
        total += len(given)
    assert total == 50
