"""The command on panoptic files with everything that goes wrong in them."""

import json
import shutil

import pytest
from mmengine.config import Config
from panoptic_files import CAR, CLASSES, PERSON, SEGMENTS, colours, document, write, write_json
from PIL import Image
from processes import run_tool

from mmdet_detr.data_check import sources_of
from mmdet_detr.errors import ConfigError

NAMES = tuple(f'{i}.jpg' for i in range(6))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / 'train', document(NAMES))
    given = document(('x/a.jpeg', 'b.JPG'))
    for image, old in zip(given['images'], (10, 11), strict=True):
        image['id'] += 100  # other pixels than those of training
        next(entry for entry in given['annotations'] if entry['image_id'] == old)['image_id'] = image['id']
    write(tmp_path / 'val', given)
    loaders = {split: {'dataset': leaf(split)} for split in ('train', 'val')}
    config = {f'{split}_dataloader': loader for split, loader in loaders.items()}
    model = {'bbox_head': {'num_classes': 4}, 'mask_head': {'num_things_classes': 2}, 'neck': {'num_queries': 5}}
    Config({**config, 'model': model}).dump(tmp_path / 'config.py')
    return tmp_path


def leaf(split: str, **options) -> dict:
    return {
        'type': 'mmdet_detr.PanopticDataset',
        'data_root': split,
        'ann_file': 'panoptic.json',
        'data_prefix': {'img': 'images/', 'seg': 'maps/'},
        'metainfo': {'classes': CLASSES},
        'pipeline': [{'type': 'LoadImageFromFile'}, {'type': 'mmdet_detr.LoadPanopticSegments'}],
        **options,
    }


def check(folder, *arguments) -> tuple[int, str]:
    done = run_tool('check_data', 'config.py', *arguments, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def problems(folder, split: str) -> list[tuple[str, str, str, bool]]:
    found = json.loads((folder / 'data_check' / 'data_check.json').read_text())
    return [
        (p['where'], p['kind'], p['reason'], p['fatal'])
        for entry in found
        if entry['ann_file'] == f'{split}/panoptic.json'
        for p in entry['problems']
    ]


def test_nothing_wrong(folder):
    code, out = check(folder, '--decode')
    assert (code, out.count('nothing wrong')) == (0, 2), out
    page = (folder / 'data_check' / 'data_check.md').read_text()
    assert '6 images, 24 boxes; 4.0 an image, 4 at most for 5 queries' in page  # crowds are learnt, too


def test_one_of_everything(folder):
    train, maps = document(NAMES), folder / 'train' / 'maps'
    by_image = {entry['image_id']: entry for entry in train['annotations']}
    (maps / 'map 10.png').unlink()
    (maps / 'map 11.png').write_bytes((maps / 'map 11.png').read_bytes()[:-20])
    colours(SEGMENTS[:5]).save(maps / 'map 12.png')
    by_image[13]['segments_info'][0]['id'] = 99
    by_image[14]['segments_info'][1]['category_id'] = 77
    Image.open(maps / 'map 15.png').convert('L').save(maps / 'map 15.png')
    write_json(folder / 'train', train)
    assert check(folder)[0] == 1
    assert sorted(problems(folder, 'train')) == [
        (
            'annotations[1].segments_info[1], image 14',
            'unknown category',
            f'category_id 77 of segment {CAR}',
            True,
        ),
        ('train/maps/map 10.png, image 10', 'broken image', 'there is no such file', True),
        (
            'train/maps/map 11.png, image 11',
            'broken image',
            'cut off or broken: ValueError: OpenCV does not read it',
            True,
        ),
        (
            'train/maps/map 12.png, image 12',
            'broken image',
            '8 x 5 pixels, but 8 x 6 in the annotations',
            True,
        ),
        (
            'train/maps/map 13.png, image 13',
            'pixels of no segment',
            f'4 pixels of {PERSON}, which the annotation does not list',
            False,
        ),
        ('train/maps/map 13.png, image 13', 'segment without a pixel', 'segment 99, category_id 1', True),
        (
            'train/maps/map 14.png, image 14',
            'pixels of no segment',
            f'4 pixels of {CAR}, which the annotation does not list',
            False,
        ),
        (
            'train/maps/map 15.png, image 15',
            'broken image',
            'segments are colours, R + 256 G + 65536 B, but this image has none',
            True,
        ),
    ]
    assert problems(folder, 'val') == []


def test_clean_files_have_nothing_fatal(folder):
    train = document(NAMES)
    by_image = {entry['image_id']: entry for entry in train['annotations']}
    (folder / 'train' / 'maps' / 'map 10.png').unlink()
    by_image[13]['segments_info'][0]['id'] = 99
    by_image[14]['segments_info'][1]['category_id'] = 77
    del by_image[15]['segments_info']
    write_json(folder / 'train', train)
    assert check(folder, '--clean', 'clean')[0] == 1
    shutil.copy(folder / 'clean' / 'train_panoptic.json', folder / 'train' / 'panoptic.json')
    code, out = check(folder)
    assert code == 0, out
    assert {kind for _, kind, _, _ in problems(folder, 'train')} == {'pixels of no segment'}
    written = json.loads((folder / 'train' / 'panoptic.json').read_text())
    assert [entry['image_id'] for entry in written['annotations']] == [11, 12, 13, 14]
    assert written['annotations'][0] == by_image[11]
    assert [len(entry['segments_info']) for entry in written['annotations']] == [4, 4, 3, 3]


def test_classes_and_things(folder):
    """Fewer classes, an order of their own, and numbers of the model that do not fit."""
    classes = [f"{split}_dataloader.dataset.metainfo.classes=['car','person','sky']" for split in ('train', 'val')]
    assert check(folder, '--cfg-options', *classes, 'model.bbox_head.num_classes=3')[0] == 0
    assert problems(folder, 'train') == [
        ('train/panoptic.json', 'category that the config leaves out', 'road: 6 boxes', False)
    ]
    code, _ = check(folder, '--cfg-options', 'model.mask_head.num_things_classes=80')
    assert code == 1
    reason = 'the model has 80, the data set 2 classes of things'
    assert problems(folder, 'train') == [('train/panoptic.json', 'num_classes', reason, True)]
    classes = "train_dataloader.dataset.metainfo.classes=['sky','car','person','road']"
    check(folder, '--cfg-options', classes)
    reason = 'things come first in classes of metainfo, and sky is stuff before the thing car'
    assert problems(folder, 'train') == [('categories', 'thing or stuff', reason, True)]
    train = document(NAMES)
    for category in train['categories']:
        del category['isthing']
    write_json(folder / 'train', train)
    assert check(folder)[0] == 1
    assert [kind for _, kind, _, _ in problems(folder, 'train')] == ['thing or stuff']
    things = "train_dataloader.dataset.metainfo.thing_classes=['person','car']"
    assert check(folder, '--cfg-options', things)[0] == 0


def test_what_ends_validation(folder):
    given = json.loads((folder / 'val' / 'panoptic.json').read_text())
    given['annotations'].append({**given['annotations'][0]})
    write_json(folder / 'val', given)
    assert check(folder)[0] == 1
    assert [problem[:2] for problem in problems(folder, 'val')] == [
        ('annotations[2], image 111', 'second annotation of an image')
    ]
    given['annotations'] = []
    write_json(folder / 'val', given)
    check(folder)
    assert [kind for _, kind, _, _ in problems(folder, 'val')] == ['class without boxes'] * 4 + ['no boxes']


def test_sources():
    config = Config(
        {'train_dataloader': {'dataset': leaf('t', metainfo={'classes': CLASSES, 'stuff_classes': ['sky']})}}
    )
    (source,) = sources_of(config)
    assert (source.ann_file, source.images, source.segment_maps) == ('t/panoptic.json', 't/images/', 't/maps/')
    assert (source.classes, source.thing_classes, source.stuff_classes) == (CLASSES, None, ('sky',))
    (source,) = sources_of(Config({'train_dataloader': {'dataset': leaf('t', metainfo=None)}}))
    assert (len(source.classes), len(source.thing_classes), len(source.stuff_classes)) == (133, 80, 53)
    with pytest.raises(ConfigError, match=r'PanopticDataset needs data_prefix=dict\(img=\.\.\., seg='):
        sources_of(Config({'train_dataloader': {'dataset': leaf('t', data_prefix={'img': 'images'})}}))
    with pytest.raises(ConfigError, match='s3://maps is on another storage'):
        sources_of(Config({'train_dataloader': {'dataset': leaf('t', data_prefix={'img': '', 'seg': 's3://maps'})}}))
