"""Training and validation on panoptic files, sound and unsound."""

import io
import logging

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.logging import MMLogger
from panoptic_files import CAR, CLASSES, PERSON, ROAD, SEGMENTS, SKY, colours, document, write, write_json
from PIL import Image

from mmdet_detr.datasets import BrokenDataError
from mmdet_detr.errors import ConfigError

PIPELINE = [{'type': 'LoadImageFromFile'}, {'type': 'mmdet_detr.LoadPanopticSegments'}, {'type': 'PackDetInputs'}]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, document())
    return tmp_path


@pytest.fixture
def log():
    """What is written to the run's log."""
    stream = io.StringIO()
    logger = MMLogger.get_instance('panoptic')
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    yield stream.getvalue
    logger.removeHandler(handler)


def dataset(root, **options):
    config = {
        'type': 'mmdet_detr.PanopticDataset',
        'data_root': str(root),
        'ann_file': 'panoptic.json',
        'data_prefix': {'img': 'images/', 'seg': 'maps/'},
        'metainfo': {'classes': CLASSES},
        'pipeline': PIPELINE,
    }
    return DATASETS.build({**config, **options})


def test_every_segment_is_an_object(folder, log):
    data = dataset(folder)
    assert len(data) == 2
    info = data.get_data_info(0)
    assert info['seg_map_path'] == f'{folder}/maps/map 10.png'
    assert info['instances'] == [
        dict(zip(('bbox_label', 'ignore_flag', 'segment_id', 'is_thing', 'iscrowd', 'bbox'), row, strict=True))
        for row in (
            (0, 0, PERSON, True, 0, [2, 1, 4, 4]),
            (1, 0, CAR, True, 1, [5, 2, 7, 4]),
            (2, 0, SKY, False, 0, [0, 0, 8, 4]),
            (3, 0, ROAD, False, 0, [0, 4, 8, 6]),
        )
    ]
    assert [tuple(segment.values()) for segment in info['segments_info']] == [
        (PERSON, 0, True),
        (CAR, 1, False),  # a crowd
        (SKY, 2, False),
        (ROAD, 3, False),
    ]
    packed = data[0]['data_samples'].gt_instances
    assert packed.labels.tolist() == [0, 1, 2, 3]
    assert packed.masks.masks.sum((1, 2)).tolist() == [4, 4, 24, 15]
    assert packed.bboxes.tensor.tolist() == [[2, 1, 3, 3], [5, 2, 6, 3], [0, 0, 7, 3], [0, 4, 7, 5]]
    assert (data.metainfo['thing_classes'], data.metainfo['stuff_classes']) == (('person', 'car'), ('sky', 'road'))
    assert log() == ''


def test_labels_follow_the_config_by_name(folder):
    data = dataset(folder, metainfo={'classes': ('car', 'person', 'road', 'sky')})
    assert [instance['bbox_label'] for instance in data.get_data_info(0)['instances']] == [1, 0, 3, 2]
    assert data.metainfo['thing_classes'] == ('car', 'person')


def test_coco_is_the_default():
    data = dataset('none', metainfo=None, lazy_init=True)
    assert [len(data.metainfo[key]) for key in ('classes', 'thing_classes', 'stuff_classes')] == [133, 80, 53]
    data = dataset('none', metainfo={'classes': ('a',), 'stuff_classes': ('a',)}, lazy_init=True)
    assert data.metainfo['stuff_classes'] == ('a',)
    assert 'thing_classes' not in data.metainfo


def test_classes_that_the_config_leaves_out_are_nothing(folder, log):
    data = dataset(folder, metainfo={'classes': ('person', 'sky')})
    assert data[0]['data_samples'].gt_instances.labels.tolist() == [0, 1]
    assert data.metainfo['stuff_classes'] == ('sky',)
    (line,) = log().splitlines()
    assert line.endswith('panoptic.json: 4 segments are left out, since the config has no class for car, road')


def test_names_of_any_kind(tmp_path):
    write(tmp_path, document(('x/a.jpeg', 'y/a.JPG', 'b.png')))
    data = dataset(tmp_path)
    assert [data[i]['data_samples'].gt_instances.masks.masks.sum() for i in range(3)] == [47] * 3
    assert [data.get_data_info(i)['img_path'].removeprefix(f'{tmp_path}/images/') for i in range(3)] == [
        'x/a.jpeg',
        'y/a.JPG',
        'b.png',
    ]


def test_keys_that_may_be_missing(folder, log):
    given = document()
    for entry in given['annotations']:
        for segment in entry['segments_info']:
            for key in ('area', 'bbox', 'iscrowd'):
                del segment[key]
    for category in given['categories']:
        del category['isthing']
    write_json(folder, given)
    with pytest.raises(BrokenDataError, match='thing or stuff: person has no isthing of 0 or 1; put it into thing_'):
        dataset(folder)
    data = dataset(folder, metainfo={'classes': CLASSES, 'thing_classes': ('person', 'car')})
    assert data[1]['data_samples'].gt_instances.bboxes.tensor.tolist()[0] == [2, 1, 3, 3]
    json_boxes = [PIPELINE[0], {**PIPELINE[1], 'box_from': 'json'}, PIPELINE[2]]
    data = dataset(folder, metainfo={'classes': CLASSES, 'stuff_classes': ('sky', 'road')}, pipeline=json_boxes)
    assert data[1]['data_samples'].gt_instances.bboxes.tensor.tolist()[0] == [2, 1, 4, 4]
    assert log() == ''


@pytest.mark.parametrize(
    ('metainfo', 'said'),
    [
        ({'classes': ('person', 'bus')}, 'class not in the file: bus; the file has road, car, person, sky'),
        ({'classes': ('bus',)}, 'no class of the config: bus; the file has road, car, person, sky'),
        ({'classes': ('sky', 'person')}, 'sky is stuff and comes before the thing person; put things first'),
        ({'classes': CLASSES, 'thing_classes': ('sky',)}, 'person: isthing 1 in the file, stuff in metainfo'),
    ],
)
@pytest.mark.parametrize('test_mode', [False, True])
def test_classes_that_end_a_run_at_its_start(folder, metainfo, said, test_mode):
    with pytest.raises(BrokenDataError, match=said) as raised:
        dataset(folder, metainfo=metainfo, test_mode=test_mode)
    assert '\n' not in str(raised.value)


def test_segments_that_cannot_be_used(folder, log):
    given = document()
    given['annotations'][0]['segments_info'][0]['category_id'] = 77
    write_json(folder, given)
    data = dataset(folder, max_broken=0.2)
    assert [len(data.get_data_info(i)['instances']) for i in range(2)] == [4, 3]
    assert 'annotations[0].segments_info[0], image 11: unknown category: category_id 77 of segment 70000' in log()
    with pytest.raises(BrokenDataError, match=r'1 of the annotations, 12%, cannot be used, more than max_broken=0.1'):
        dataset(folder)


def test_an_image_without_annotation(folder):
    given = document()
    del given['annotations'][0]
    write_json(folder, given)
    assert [dataset(folder, max_broken=0.5).get_data_info(0)['img_id']] == [10]
    with pytest.raises(BrokenDataError, match='1 of the images, 50%, cannot be used'):
        dataset(folder)
    with pytest.raises(BrokenDataError, match=r'cannot be evaluated: 1 x image without segments.*images\[1\]'):
        dataset(folder, max_broken=0.5, test_mode=True)
    assert len(dataset(folder, test_mode=True, evaluated=False)) == 2
    given['annotations'] = []
    write_json(folder, given)
    data = dataset(folder, test_mode=True, data_prefix={'img': 'images/'})
    assert len(data) == 2
    assert data.get_data_info(0)['seg_map_path'] is None


SPOILT = [
    (lambda path: path.unlink(), 'there is no such file'),
    (lambda path: path.write_bytes(path.read_bytes()[:-20]), 'cut off or broken'),
    (lambda path: path.write_text('text'), 'no image'),
    (lambda path: colours(SEGMENTS[:5]).save(path), '8 x 5 pixels, but 8 x 6 in the annotations'),
]


@pytest.mark.parametrize(('spoil', 'said'), SPOILT)
def test_a_png_that_cannot_be_used(folder, spoil, said, log):
    """In training another image takes its place; validation ends at its start."""
    path = folder / 'maps' / 'map 10.png'
    spoil(path)
    data = dataset(folder, max_broken=0.5)
    assert {data[0]['data_samples'].img_id for _ in range(5)} == {11}
    (line,) = log().splitlines()
    assert f'images/a.jpg is left out: {path}: {said}' in line
    with pytest.raises(BrokenDataError, match=f'validation needs all its images: .*a.jpg: .*map 10.png: {said}'):
        dataset(folder, test_mode=True)
    no_segments = [step for step in PIPELINE if 'Segments' not in step['type']]
    assert len(dataset(folder, test_mode=True, evaluated=False, pipeline=no_segments)) == 2
    assert len(dataset(folder, pipeline=no_segments)) == 2


def test_a_png_in_grey_is_no_png_of_segments(folder, log):
    path = folder / 'maps' / 'map 10.png'
    Image.open(path).convert('L').save(path)
    data = dataset(folder, max_broken=0.5)
    assert data[0]['data_samples'].img_id == 11
    assert 'map 10.png: segments are colours, R + 256 G + 65536 B, but this image has none' in log()


def test_the_folder_of_pngs_is_needed(folder):
    with pytest.raises(ConfigError, match=r'PanopticDataset needs data_prefix=dict\(img=\.\.\., seg='):
        dataset(folder, data_prefix={'img': 'images/'})


def test_filters_look_at_all_segments(folder):
    """mmdet drops images without things."""
    given = document()
    given['annotations'][0]['segments_info'] = given['annotations'][0]['segments_info'][2:]  # stuff only
    given['annotations'][1]['segments_info'] = []
    write_json(folder, given)
    data = dataset(folder)
    assert len(data) == 2
    assert len(data[0]['data_samples'].gt_instances) == 0
    data = dataset(folder, filter_cfg={'filter_empty_gt': True})
    assert [data.get_data_info(i)['img_id'] for i in range(len(data))] == [11]


def test_augmentation_carries_masks_along(folder):
    """In a flipped, cropped and resized sample, every mask fills its box, and the pixels follow."""
    augmented = [
        *PIPELINE[:2],
        {'type': 'RandomFlip', 'prob': 0.5},
        {'type': 'RandomCrop', 'crop_type': 'absolute_range', 'crop_size': (3, 5), 'allow_negative_crop': True},
        {'type': 'mmdet_detr.ShortestSideResize', 'sizes': [30], 'longest': None},
        PIPELINE[2],
    ]
    data = dataset(folder, pipeline=augmented)
    np.random.seed(0)
    counts = set()
    for _ in range(40):
        sample = data[0]
        objects = sample['data_samples'].gt_instances
        masks = objects.masks.masks
        assert masks.shape == (len(objects.bboxes), *sample['inputs'].shape[1:])
        assert masks.sum(0).max() <= 1
        counts.add(len(masks))
    assert len(counts) > 1  # crops take objects away
