import json

import numpy as np
import pytest
from helpers import ROOT
from mmdet.registry import DATASETS
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from mmdet_detr.datasets.shapes import STUFF, THINGS, ShapesOptions, draw_scene, write_shapes

OPTIONS = ShapesOptions(image_size=48, min_objects=1, max_objects=4, seed=7)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    for split, count in (('train', 6), ('val', 3)):
        assert list(write_shapes(root, split, count, OPTIONS)) == list(range(1, count + 1))
    return root


def files_of(root) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def test_deterministic_by_seed(folder, tmp_path):
    for split, count in (('train', 6), ('val', 3)):
        list(write_shapes(tmp_path, split, count, OPTIONS))
    assert files_of(tmp_path) == files_of(folder)
    other = draw_scene(np.random.default_rng((8, 0, 0)), OPTIONS).image
    assert not np.array_equal(other, draw_scene(np.random.default_rng((7, 0, 0)), OPTIONS).image)


def test_read_by_mmdet(folder):
    dataset = DATASETS.build(
        {
            'type': 'CocoDataset',
            'data_root': str(folder),
            'metainfo': {'classes': THINGS},
            'ann_file': 'annotations/instances_train.json',
            'data_prefix': {'img': 'train/'},
            'pipeline': [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True}],
        }
    )
    assert len(dataset) == 6
    assert dataset[0]['img'].shape == (48, 48, 3)
    assert all(1 <= len(dataset[i]['gt_bboxes']) <= 4 for i in range(6))


def test_boxes_polygons_and_pixels_agree(folder):
    coco = COCO(str(folder / 'annotations' / 'instances_train.json'))
    panoptic = json.loads((folder / 'annotations' / 'panoptic_train.json').read_text())
    assert [c['name'] for c in coco.dataset['categories']] == list(THINGS)
    for annotation in coco.dataset['annotations']:
        x, y, width, height = annotation['bbox']
        assert x >= 0
        assert y >= 0
        assert x + width <= 48
        assert y + height <= 48
        mask = coco.annToMask(annotation)
        assert mask.sum() == pytest.approx(annotation['area'], rel=0.12)
        assert mask_api.area(coco.annToRLE(annotation)) == mask.sum()
        rows, columns = np.nonzero(mask)
        assert (columns.min(), rows.min()) == pytest.approx((x, y), abs=1.5)
        assert (columns.max() + 1, rows.max() + 1) == pytest.approx((x + width, y + height), abs=1.5)
    for entry in panoptic['annotations']:
        png = np.asarray(Image.open(folder / 'annotations' / 'panoptic_train' / entry['file_name'])).astype(int)
        ids = png[..., 0] + 256 * png[..., 1] + 65536 * png[..., 2]
        segments = {segment['id']: segment for segment in entry['segments_info']}
        assert set(np.unique(ids)) == set(segments)
        assert sum(segment['area'] for segment in segments.values()) == 48 * 48
        things = [segment for segment in segments.values() if segment['category_id'] <= len(THINGS)]
        instances = coco.loadAnns(coco.getAnnIds(entry['image_id']))
        assert sorted(s['category_id'] for s in things) == sorted(i['category_id'] for i in instances)
        assert 2 <= len(segments) - len(things) <= 3


def test_panoptic_categories(folder):
    panoptic = json.loads((folder / 'annotations' / 'panoptic_val.json').read_text())
    assert [c['name'] for c in panoptic['categories']] == [*THINGS, *STUFF]
    assert [c['isthing'] for c in panoptic['categories']] == [1] * len(THINGS) + [0] * len(STUFF)


def test_colour_at_the_centre_differs_from_the_ground():
    scene = draw_scene(np.random.default_rng(1), OPTIONS)
    for number in range(len(scene.shapes)):
        inside = scene.image[scene.segments == len(STUFF) + number].mean(0)
        outside = scene.image[scene.segments < len(STUFF)].mean(0)
        assert np.abs(inside - outside).sum() > 40


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'image_size': 8}, 'at least 16 pixels, got 8'),
        ({'min_objects': 3, 'max_objects': 2}, 'got 3 and 2'),
        ({'seed': -1}, 'must not be negative, got -1'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ShapesOptions(**options)


def test_bad_split_or_count(tmp_path):
    for split, count in (('test', 1), ('train', 0)):
        with pytest.raises(ValueError, match='at least 1 image'):
            list(write_shapes(tmp_path, split, count, OPTIONS))


def test_tool(run_python, tmp_path):
    tool = ROOT / 'tools' / 'make_shapes.py'
    done = run_python(tool, tmp_path, '--train', 2, '--val', 1, '--image-size', 32)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob('*/*.jpg'))) == 3
    failed = run_python(tool, tmp_path, '--image-size', 3)
    assert failed.returncode == 2
    assert failed.stderr.strip().splitlines()[-1] == 'make_shapes: image_size must be at least 16 pixels, got 3'
