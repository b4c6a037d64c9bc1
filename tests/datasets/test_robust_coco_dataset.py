"""Training on a folder where much is broken."""

import io
import json
import logging
import re
from itertools import chain

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import DATASETS
from mmengine.dataset import ConcatDataset, RepeatDataset, pseudo_collate
from mmengine.fileio import BaseStorageBackend, register_backend
from mmengine.logging import MMLogger
from mmengine.registry import DATA_SAMPLERS
from PIL import Image
from pycocotools import mask as mask_api
from torch.utils.data import DataLoader

from mmdet_detr.datasets import BrokenDataError
from mmdet_detr.errors import ConfigError

RANDOM = np.random.default_rng(0)
SIZE = (64, 48)


def picture(mode: str = 'RGB', size: tuple[int, int] = SIZE) -> Image.Image:
    depth = len(Image.new(mode, (1, 1)).getbands())
    pixels = RANDOM.integers(0, 256, (size[1], size[0], depth), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(2) if depth == 1 else pixels, mode)


def jpeg(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, 'JPEG', **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def sixteen_bits() -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 2**16, SIZE[::-1], dtype=np.uint16))


def write(root, name: str, content: bytes | Image.Image | None) -> None:
    if isinstance(content, Image.Image):
        frames = [picture('P'), picture('P')] if name.endswith('gif') else []
        content.save(root / name, **({'save_all': True, 'append_images': frames} if frames else {}))
    elif content is not None:
        (root / name).write_bytes(content)


SOUND = {f'{i}.jpg': (picture(), SIZE) for i in range(6)} | {
    'cmyk.jpg': (picture('CMYK'), SIZE),
    'gray.jpg': (picture('L'), SIZE),
    'sixteen.png': (sixteen_bits(), SIZE),
    'turned.jpg': (jpeg(picture(), exif=exif(6)), SIZE[::-1]),
    'pixel.png': (picture(size=(1, 1)), (1, 1)),
    'long.png': (picture(size=(20000, 50)), (20000, 50)),
    'animated.gif': (picture('P'), SIZE),
}
BROKEN = {
    'truncated.jpg': (jpeg(picture())[:-300], 'cut off'),
    'empty.jpg': (b'', 'empty'),
    'text.jpg': (b'not an image', 'no image'),
    'missing.jpg': (None, 'there is no such file'),
    'turned_otherwise.jpg': (jpeg(picture(), exif=exif(6)), '48 x 64 pixels, turned by EXIF, but 64 x 48'),
    'other_size.jpg': (picture(size=(32, 32)), '32 x 32 pixels, but 64 x 48'),
    'noise.png': (b'\x89PNG\r\n\x1a\n' + RANDOM.bytes(300), 'no image|cut off|SyntaxError|Truncated'),
}


@pytest.fixture
def folder(tmp_path):
    """Thirteen images that can be read and seven that cannot, one box in each."""
    sizes = {}
    for name, (content, size) in SOUND.items():
        write(tmp_path, name, content)
        sizes[name] = size
    for name, (content, _) in BROKEN.items():
        write(tmp_path, name, content)
        sizes[name] = SIZE
    annotate(tmp_path, sizes)
    return tmp_path


def annotate(root, sizes: dict[str, tuple[int, int]]) -> dict:
    document = {
        'images': [
            {'id': i, 'file_name': name, 'width': w, 'height': h} for i, (name, (w, h)) in enumerate(sizes.items())
        ],
        'categories': [{'id': 1, 'name': 'thing'}],
        'annotations': [
            {
                'id': i,
                'image_id': i,
                'category_id': 1,
                'bbox': [0, 0, min(w, 20), min(h, 20)],
                'area': min(w, 20) * min(h, 20),
                'iscrowd': 0,
            }
            for i, (w, h) in enumerate(sizes.values())
        ],
    }
    (root / 'annotations.json').write_text(json.dumps(document))
    return document


@pytest.fixture
def log():
    """What is written to the run's log."""
    stream = io.StringIO()
    logger = MMLogger.get_instance('robust')
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    yield stream.getvalue
    logger.removeHandler(handler)


def dataset(root, **options):
    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'LoadAnnotations', 'with_bbox': True},
        {'type': 'RandomFlip', 'prob': 0.5},
        {'type': 'RandomCrop', 'crop_size': (40, 40), 'allow_negative_crop': True},
        {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'img_path')},
    ]
    config = {
        'type': 'mmdet_detr.RobustCocoDataset',
        'data_root': f'{root}/',
        'ann_file': 'annotations.json',
        'data_prefix': {'img': ''},
        'metainfo': {'classes': ('thing',)},
        'pipeline': pipeline,
    }
    return DATASETS.build({**config, **options})


def test_broken_images_are_named_and_replaced(folder, log):
    data = dataset(folder, max_broken=0.5)
    assert len(data) == 20
    read = {data[i]['data_samples'].img_path.rsplit('/', 1)[1] for i in range(20) for _ in range(2)}
    assert set(SOUND) >= read >= {'cmyk.jpg', 'gray.jpg', 'sixteen.png', 'turned.jpg', 'long.png'}
    lines = [line for line in log().splitlines() if 'is left out' in line]
    # Each is named once. OpenCV may not know the animation, and mmdet cannot flip a single pixel.
    assert len(BROKEN) <= len(lines) <= len(BROKEN) + 2
    for name, (_, reason) in BROKEN.items():
        (line,) = (line for line in lines if f'/{name} is left out' in line)
        assert any(part in line for part in reason.split('|')), line
    assert re.search(rf'\({len(lines)} of (1\d|20) images so far\)', lines[-1])


def test_images_of_every_kind_have_three_channels(folder):
    data = dataset(folder, max_broken=0.5)
    for i in range(len(SOUND)):
        image = data[i]['inputs']
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3


def test_ends_above_the_share(folder):
    data = dataset(folder, max_broken=0.2)  # four of twenty
    with pytest.raises(
        BrokenDataError, match=r'5 of 1\d images cannot be used, more than max_broken=0.2; the last: .*'
    ):
        list(map(data.__getitem__, range(20)))


@pytest.mark.parametrize('persistent', [False, True])
def test_workers_count_together(folder, persistent, log):
    """Each of four workers reads five of the twenty images in an epoch, and at most two of those are broken."""
    options = {'num_workers': 4, 'persistent_workers': persistent, 'collate_fn': pseudo_collate}
    loader = DataLoader(dataset(folder, max_broken=0.3), batch_size=5, **options)
    with pytest.raises(BrokenDataError, match=r'7 of \d+ images cannot be used, more than max_broken=0.3'):
        list(chain(loader, loader, loader))
    assert 'truncated.jpg is left out' not in log()  # the workers write it to their own logs


def test_ends_where_not_one_image_passes_the_pipeline(folder):
    fails = {'type': 'Resize', 'scale': (-1, -1), 'keep_ratio': False}
    data = dataset(folder, max_broken=1.0, pipeline=[{'type': 'LoadImageFromFile'}, fails])
    with pytest.raises(BrokenDataError, match='20 of 20 images cannot be used, every one so far'):
        data[0]


def test_a_share_of_none(folder):
    data = dataset(folder, max_broken=0)
    assert data[0] is not None
    with pytest.raises(BrokenDataError, match='1 of 2 images cannot be used, more than max_broken=0;'):
        data[len(SOUND)]


def test_images_behind_another_path_are_left_to_their_storage(folder):
    loading = {'type': 'LoadImageFromFile', 'backend_args': {'backend': 'mapped'}}
    data = dataset(folder, data_prefix={'img': 'elsewhere/'}, pipeline=[loading, {'type': 'PackDetInputs'}])
    register_backend('mapped', Mapped, force=True)
    assert data[0]['inputs'].shape == (3, *SIZE[::-1])


class Mapped(BaseStorageBackend):
    """Reads files from another folder."""

    def get(self, filepath: str) -> bytes:
        with open(filepath.replace('elsewhere/', ''), 'rb') as file:
            return file.read()

    def get_text(self, filepath: str) -> str:
        return self.get(filepath).decode()


def test_ignored_orientation_is_compared_as_stored(folder, log):
    loading = {'type': 'LoadImageFromFile', 'color_type': 'color_ignore_orientation'}
    data = dataset(folder, max_broken=0.5, pipeline=[loading, {'type': 'PackDetInputs', 'meta_keys': ('img_path',)}])
    for i in range(20):
        data[i]
    assert 'turned.jpg is left out: 64 x 48' in log()
    assert 'turned_otherwise' not in log()


def test_a_bomb_is_not_decoded(folder, log):
    data = dataset(folder, max_broken=0.5, max_pixels=500_000)
    for i in range(20):
        data[i]
    assert 'long.png is left out: 20000 x 50 pixels are more than max_pixels=500000' in log()


def test_validation_ends_at_its_start(folder):
    with pytest.raises(BrokenDataError, match=r'validation needs all its images: .*truncated.jpg: cut off.*and 4 more'):
        dataset(folder, test_mode=True)


def change(entry: dict, **values) -> None:
    entry.update(values)
    for name in [name for name, value in values.items() if value is ...]:
        del entry[name]


@pytest.mark.parametrize(
    ('change_it', 'said'),
    [
        (
            lambda d: change(d['annotations'][0], area=...),
            r'annotations\[0\]: missing key: area; evaluation needs it',
        ),
        (lambda d: change(d['annotations'][1], bbox=[0, 0, 'a', 1]), r'annotations\[1\], image 1: no box'),
        (lambda d: change(d['annotations'][1], id=0), r'annotations\[1\]: duplicate annotation id'),
        (lambda d: change(d['images'][1], file_name='../1.jpg'), r'images\[1\]: outside the data'),
        (lambda d: d['annotations'].append(None), r'annotations\[2\]: no object'),
        (lambda d: change(d['categories'][0], name='b'), r'categories: no class of the config: thing'),
        (lambda d: change(d['annotations'][1], id='b'), r"annotations\[1\]: wrong type: id 'b'"),
        (lambda d: change(d['annotations'][1], iscrowd=None), r'annotations\[1\]: wrong type: iscrowd None'),
        (lambda d: change(d['images'][1], id='b'), r'images: wrong type: ids of several types: int, str'),
        (lambda d: d['categories'].append({'id': 'b', 'name': 'b'}), r'categories: wrong type: ids of several types'),
    ],
)
def test_what_cannot_be_evaluated_ends_validation_at_its_start(tmp_path, change_it, said, log):
    """pycocotools would read the file after the first epoch."""
    for name in ('0.jpg', '1.jpg'):
        picture().save(tmp_path / name)
    document = annotate(tmp_path, {'0.jpg': SIZE, '1.jpg': SIZE})
    change(document['annotations'][0], bbox=[0, 0, 0, 5])  # pycocotools counts it
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    assert len(dataset(tmp_path, test_mode=True, max_broken=0.6)) == 2
    change_it(document)
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    with pytest.raises(BrokenDataError, match=said):
        dataset(tmp_path, test_mode=True, max_broken=1.0)
    dataset(tmp_path, test_mode=True, max_broken=1.0, evaluated=False)
    del document['annotations']  # A test set has none.
    document['images'][1].update(file_name='1.jpg', id=1)
    document['categories'] = [{'id': 1, 'name': 'thing'}]
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    assert len(dataset(tmp_path, test_mode=True)) == 2
    assert 'annotations.json has no annotations: it will evaluate to an AP of -1' in log()


def test_what_evaluation_passes_over_or_miscounts_does_not_end_it(tmp_path, log):
    for name in ('0.jpg', '1.jpg'):
        picture().save(tmp_path / name)
    document = annotate(tmp_path, {'0.jpg': SIZE, '1.jpg': SIZE})
    document['categories'].append({'id': 2, 'name': 'another'})
    change(document['annotations'][1], category_id=2, bbox=None, area=...)
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    assert len(dataset(tmp_path, test_mode=True, max_broken=0.6)) == 2
    assert 'annotations[0]: annotation id 0: pycocotools counts it as not found' in log()


def test_broken_annotations_are_left_out(folder, log):
    document = annotate(folder, {name: size for name, (_, size) in SOUND.items()})
    document['annotations'][0]['bbox'] = [0, 0, float('nan'), 3]
    document['annotations'][1].pop('category_id')
    document['annotations'][2]['segmentation'] = [[1, 2, 3, 4]]
    document['images'][3]['width'] = 'wide'
    (folder / 'annotations.json').write_text(json.dumps(document))
    data = dataset(folder, max_broken=0.4)
    assert len(data) == len(SOUND) - 1
    assert [len(data.get_data_info(i)['instances']) for i in range(4)] == [0, 0, 1, 1]
    assert 'annotations.json: annotations[0], image 0: no box: bbox [0, 0, nan, 3] is not four finite numbers' in log()
    with pytest.raises(
        BrokenDataError,
        match=r'3 of the annotations, 23%, cannot be used, more than max_broken=0.1: .*--clean FOLDER writes',
    ):
        dataset(folder)


def test_labels_of_other_classes_end_training_at_its_start(folder):
    """mmdet numbers classes in the order of the file, and leaves out those that it does not have."""
    document = annotate(folder, {'0.jpg': SIZE})
    document['categories'] = [{'id': 2, 'name': 'b'}, {'id': 1, 'name': 'a'}]
    (folder / 'annotations.json').write_text(json.dumps(document))
    assert dataset(folder, metainfo={'classes': ('b', 'a')}).get_data_info(0)['instances'][0]['bbox_label'] == 1
    with pytest.raises(BrokenDataError, match=r'order of the classes: the file has b, a, the config a, b'):
        dataset(folder, metainfo={'classes': ('a', 'b')})
    with pytest.raises(
        BrokenDataError, match=r'class not in the file: c; the file has b, a: metainfo of the config has to'
    ):
        dataset(folder, metainfo={'classes': ('b', 'c', 'a')})


def test_broken_masks_are_ignored_with_their_boxes(tmp_path):
    """mmdet ignores polygons of two points alike."""
    picture().save(tmp_path / '0.jpg')
    document = annotate(tmp_path, {'0.jpg': SIZE})
    whole, short = [1, 1, 9, 1, 9, 9], [1, 2, 3, 4]
    runs = {'size': [48, 64], 'counts': [1000, 2072]}
    broken = ({**runs, 'size': [10, 10]}, {**runs, 'counts': [1, 2]}, {**runs, 'counts': None})
    for segmentation in ([short], None, 'abc', *broken, [whole, short], [whole], runs):
        document['annotations'].append({**document['annotations'][0], 'segmentation': segmentation})
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    loading = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}]
    sample = dataset(tmp_path, pipeline=[*loading, {'type': 'PackDetInputs', 'meta_keys': ()}])[0]['data_samples']
    assert [len(sample.ignored_instances), len(sample.gt_instances)] == [7, 3]
    assert sample.gt_instances.masks.areas.min() > 20


def test_objects_without_masks_are_named_where_masks_are_loaded(tmp_path, log):
    picture().save(tmp_path / '0.jpg')
    document = annotate(tmp_path, {'0.jpg': SIZE})
    first = document['annotations'][0]
    document['annotations'] = [{**first, 'id': 2, 'segmentation': []}, {**first, 'id': 3}]
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    loading = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}]
    dataset(tmp_path, pipeline=[loading[0], {**loading[1], 'with_mask': False}])
    assert 'no segmentation' not in log()
    with pytest.raises(BrokenDataError, match='the pipeline loads masks, and no annotation has a segmentation'):
        dataset(tmp_path, pipeline=loading)
    document['annotations'].append({**first, 'id': 4, 'segmentation': [[1, 1, 9, 1, 9, 9]]})
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    dataset(tmp_path, pipeline=loading)
    assert 'annotations.json: 2 x no segmentation' in log()


def test_polygons_and_run_lengths_become_masks(tmp_path):
    """One line in the config gives the masks of instances; crowds are ignored, as in the official code."""
    picture().save(tmp_path / '0.jpg')
    document = annotate(tmp_path, {'0.jpg': SIZE})
    drawn = np.zeros(SIZE[::-1], np.uint8)
    drawn[4:9, 10:30] = 1
    rectangle = [10, 4, 30, 4, 30, 9, 10, 9]
    corner = [0, 0, 3, 0, 3, 2, 0, 2]
    text = mask_api.encode(np.asfortranarray(drawn))['counts'].decode()
    column = np.flatnonzero(np.diff(drawn.ravel('F'), prepend=0, append=0))
    lengths = np.diff(column, prepend=0, append=drawn.size).tolist()
    given = [
        {'segmentation': [rectangle]},
        {'segmentation': [rectangle, corner]},  # two parts
        {'segmentation': {'size': [48, 64], 'counts': lengths}},
        {'segmentation': {'size': [48, 64], 'counts': text}},
        {'segmentation': {'size': [48, 64], 'counts': lengths}, 'iscrowd': 1},
    ]
    document['annotations'] = [{**document['annotations'][0], 'id': i, **entry} for i, entry in enumerate(given)]
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    loading = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}]
    rest = [{'type': 'mmdet_detr.ShortestSideResize', 'sizes': [96]}, {'type': 'PackDetInputs', 'meta_keys': ()}]
    sample = dataset(tmp_path, pipeline=[*loading, *rest])[0]['data_samples']
    larger = np.kron(drawn, np.ones((2, 2), np.uint8))
    two = larger.copy()
    two[:4, :6] = 1
    for mask, expected in zip(sample.gt_instances.masks, (larger, two, larger, larger), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert len(sample.ignored_instances) == 1


class LoadBands(BaseTransform):
    """Five bands, in a format that no image library reads."""

    def transform(self, results):
        pixels = np.load(results['img_path'])
        return {**results, 'img': pixels, 'img_shape': pixels.shape[:2], 'ori_shape': pixels.shape[:2]}


@pytest.mark.parametrize('test_mode', [False, True])
def test_images_that_only_an_own_transform_reads(tmp_path, test_mode):
    np.save(tmp_path / 'image.npy', np.zeros((8, 8, 5), np.int16))
    image = {'id': 1, 'file_name': 'image.npy', 'height': 8, 'width': 8}
    box = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 4, 4], 'area': 16, 'iscrowd': 0}
    document = {'images': [image], 'annotations': [box], 'categories': [{'id': 1, 'name': 'a'}]}
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    pipeline = [{'type': LoadBands}, {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'img_path')}]
    options = {'metainfo': {'classes': ('a',)}, 'pipeline': pipeline, 'test_mode': test_mode}
    assert dataset(tmp_path, **options)[0]['inputs'].shape == (5, 8, 8)
    (tmp_path / 'image.npy').unlink()
    with pytest.raises(BrokenDataError, match='there is no such file'):
        dataset(tmp_path, **options)[0]


def test_a_name_is_no_list_of_names(folder):
    with pytest.raises(ConfigError, match=r"classes='circle' is a string and no tuple: write classes=\('circle',\)"):
        dataset(folder, metainfo={'classes': 'circle'})


def test_a_share_has_to_be_one(folder):
    for share in (-0.1, 10):
        with pytest.raises(ConfigError, match='no share between 0 and 1'):
            dataset(folder, max_broken=share)


def test_few_images_none_of_which_can_be_read(tmp_path):
    annotate(tmp_path, {'a.jpg': SIZE, 'b.jpg': SIZE})
    with pytest.raises(BrokenDataError, match='2 of 2 images cannot be used, every one so far'):
        dataset(tmp_path, max_broken=1.0)[0]


def test_errors_of_several_lines_end_in_one(folder):
    annotate(folder, {'a\nb.jpg': SIZE})
    with pytest.raises(BrokenDataError, match=r'a b\.jpg: there is no such file') as raised:
        dataset(folder, test_mode=True)
    assert '\n' not in str(raised.value)
    fails = [{'type': 'LoadImageFromFile'}, {'type': 'Resize', 'scale': ('a', 'b')}]
    annotate(folder, {'0.jpg': SIZE})
    with pytest.raises(BrokenDataError, match=r'the last: .*0.jpg: \w+: ') as raised:
        dataset(folder, pipeline=fails)[0]
    assert '\n' not in str(raised.value)


def test_a_path_outside_is_refused_unless_allowed(folder):
    outside = folder.parent / 'outside.jpg'
    picture().save(outside)
    annotate(folder, {'0.jpg': SIZE, '1.jpg': SIZE, '../outside.jpg': SIZE})
    assert [info['img_path'] for info in map(dataset(folder, max_broken=0.5).get_data_info, range(2))] == [
        f'{folder}/0.jpg',
        f'{folder}/1.jpg',
    ]
    assert len(dataset(folder, allow_outside=True)) == 3


def drawn(data, workers: int, start: int, epoch: int = 1) -> list[np.ndarray]:
    sampler = DATA_SAMPLERS.build(
        {'type': 'mmdet_detr.SeededSampler', 'sampler': {'type': 'DefaultSampler', 'shuffle': True}},
        default_args={'dataset': data, 'seed': 3},
    )
    sampler.set_epoch(epoch)
    sampler.start_at(start)
    loader = DataLoader(data, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate)
    return [image.numpy() for batch in loader for image in batch['inputs']]


WRAPPERS = {
    'plain': lambda data: data,
    'joined': lambda data: ConcatDataset([data, data]),
    'repeated': lambda data: RepeatDataset(data, 2),
}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
def test_augmentation_depends_on_the_draw_alone(folder, wrap):
    """The number of workers, the start in the epoch and earlier draws change nothing."""
    data = wrap(dataset(folder, max_broken=0.5))
    whole = drawn(data, 0, 0)
    assert len(whole) == len(data)
    np.random.seed(9)
    rest = drawn(wrap(dataset(folder, max_broken=0.5)), 2, 6)
    assert len(rest) == len(data) - 6
    for one, other in zip(whole[6:], rest, strict=True):
        np.testing.assert_array_equal(one, other)
    another = drawn(wrap(dataset(folder, max_broken=0.5)), 0, 0, epoch=2)
    assert not all(one.shape == other.shape and (one == other).all() for one, other in zip(whole, another, strict=True))
