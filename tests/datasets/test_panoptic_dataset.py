"""Training and validation on panoptic files, sound and unsound."""

import io
import logging

import numpy as np
import pytest
from helpers import ROOT
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import MMLogger
from panoptic_files import CAR, CLASSES, PERSON, ROAD, SEGMENTS, SKY, colours, document, write, write_json
from PIL import Image

from mmdet_detr.datasets import BrokenDataError
from mmdet_detr.datasets.load_panoptic_segments import mask_boxes
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
    with pytest.raises(BrokenDataError, match=r'thing or stuff: no isthing of 0 or 1, .*: person, car, sky, road'):
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
        (
            {'classes': ('sky', 'person')},
            'things come first in classes of metainfo, and sky is stuff before the thing person',
        ),
        (
            {'classes': CLASSES, 'thing_classes': ('sky',)},
            'isthing is the opposite of what metainfo says: person, car, sky',
        ),
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


@pytest.mark.parametrize('loading', ['LoadAnnotations', 'LoadPanopticAnnotations'])
def test_masks_are_loaded_from_the_pngs(folder, loading):
    step = {'type': loading, 'with_bbox': True, 'with_mask': True}
    with pytest.raises(ConfigError, match=f'LoadPanopticSegments, in place of {loading}'):
        dataset(folder, pipeline=[PIPELINE[0], step, PIPELINE[2]])
    assert (
        len(dataset(folder, pipeline=[PIPELINE[0], {'type': 'LoadAnnotations', 'with_bbox': True}, PIPELINE[2]])) == 2
    )


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


CROP = {'type': 'RandomCrop', 'crop_type': 'absolute_range', 'crop_size': (3, 5), 'allow_negative_crop': True}


def crop_at(data, size: tuple[int, int], place: tuple[int, int]):
    """Let the RandomCrop of a data set take this size and place (y, x); gives the first sample."""
    (crop,) = (step for step in data.pipeline.transforms if type(step).__name__ == 'RandomCrop')
    crop._get_crop_size = lambda _: size
    crop._rand_offset = lambda _: place
    return data[0]


def augmented(*steps) -> list[dict]:
    return [*PIPELINE[:2], *steps, PIPELINE[2]]


def test_a_crop_takes_away_what_has_no_box(folder):
    """As in the official code, the box decides: one pixel of the person is left, and its box ends at it."""
    objects = crop_at(dataset(folder, pipeline=augmented(CROP)), (3, 5), (0, 3))['data_samples'].gt_instances
    assert objects.labels.tolist() == [1, 2]  # a car and the sky: the road is below
    assert objects.bboxes.tensor.tolist() == [[2, 2, 3, 3], [0, 0, 4, 3]]
    for mask, segment in zip(objects.masks, (CAR, SKY), strict=True):
        np.testing.assert_array_equal(mask, SEGMENTS[:3, 3:] == segment)
    json_boxes = [PIPELINE[0], {**PIPELINE[1], 'box_from': 'json'}, CROP, PIPELINE[2]]
    objects = crop_at(dataset(folder, pipeline=json_boxes), (3, 5), (0, 3))['data_samples'].gt_instances
    assert objects.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(objects.masks.masks[0], SEGMENTS[:3, 3:] == PERSON)


def test_a_crop_without_objects(folder):
    given = document()
    given['annotations'][1]['segments_info'] = given['annotations'][1]['segments_info'][:1]
    write_json(folder, given)
    resize = {'type': 'mmdet_detr.ShortestSideResize', 'sizes': [4]}
    sample = crop_at(dataset(folder, pipeline=augmented(CROP, resize)), (2, 3), (4, 5))
    assert sample['inputs'].shape == (3, 4, 6)
    assert sample['data_samples'].gt_instances.masks.masks.shape == (0, 4, 6)


def test_flipped_and_resized_masks(folder):
    steps = ({'type': 'RandomFlip', 'prob': 1.0}, {'type': 'mmdet_detr.ShortestSideResize', 'sizes': [12]})
    objects = dataset(folder, pipeline=augmented(*steps))[0]['data_samples'].gt_instances
    larger = np.kron(SEGMENTS[:, ::-1], np.ones((2, 2), dtype=int))
    for mask, segment in zip(objects.masks, (PERSON, CAR, SKY, ROAD), strict=True):
        np.testing.assert_array_equal(mask, larger == segment)
    assert objects.bboxes.tensor.tolist() == [[10, 2, 12, 6], [4, 4, 6, 6], [2, 0, 16, 6], [2, 8, 16, 10]]


def test_the_whole_augmentation(tmp_path):
    """Boxes and masks stay together through the official augmentation of an image of ordinary size."""
    segments = np.kron(SEGMENTS, np.ones((60, 60), dtype=int))
    given = document(('a.jpg',))
    given['images'][0].update(width=480, height=360)
    for segment in given['annotations'][0]['segments_info']:
        segment['bbox'] = [60 * side for side in segment['bbox']]
    write(tmp_path, given)
    colours(segments).save(tmp_path / 'maps' / 'map 10.png')
    Image.new('RGB', (480, 360)).save(tmp_path / 'images' / 'a.jpg')
    recipe = Config.fromfile(ROOT / 'configs' / '_base_' / 'detr_augmentation.py').detr_augmentation
    data = dataset(tmp_path, pipeline=[*PIPELINE[:2], *recipe])
    np.random.seed(0)
    numbers = set()
    for _ in range(8):
        sample = data[0]
        objects = sample['data_samples'].gt_instances
        masks = objects.masks.masks
        assert masks.shape == (len(objects.bboxes), *sample['inputs'].shape[1:])
        assert masks.dtype == np.uint8
        assert masks.sum(0).max() <= 1
        boxes, seen = mask_boxes(masks.astype(bool))
        outside = (objects.bboxes.tensor.numpy() - boxes) * (1, 1, -1, -1)  # a crop leaves corners without pixels
        assert outside[seen].max() <= 2 * max(sample['data_samples'].scale_factor)
        numbers.add(len(masks))
    assert len(numbers) > 1  # crops take objects away
