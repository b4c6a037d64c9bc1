"""Detections are those of mmdet, for images of every kind, and one by one as in a batch."""

import numpy as np
import pytest
import torch
from detectors import CLASSES
from helpers import loopback_server
from mmcv import imread
from mmdet.apis import inference_detector, init_detector
from mmengine.registry import DefaultScope, Registry
from PIL import Image

import mmdet_detr
from mmdet_detr.inference import Result, UnreadableImageError

KINDS = ('turned.jpg', 'colour.png', 'grey.png', 'opacity.png', 'grey_opacity.png', 'palette.png', 'deep.png')


def equal(result: Result, expected: Result, tolerance: float) -> bool:
    pairs = ((result.boxes, expected.boxes), (result.scores, expected.scores))
    close = all(a.shape == b.shape and np.allclose(a, b, atol=tolerance, rtol=0) for a, b in pairs)
    return close and result.labels.tolist() == expected.labels.tolist()


def by_mmdet(model, image) -> Result:
    found = inference_detector(model, image).pred_instances.numpy()
    return Result(found.bboxes, found.scores, found.labels, CLASSES)


@pytest.fixture(scope='module')
def mmdets(checkpoint, detector):
    """The same checkpoint in the hands of mmdet."""
    return init_detector(detector.model.cfg, str(checkpoint), device='cpu')


@pytest.mark.parametrize('name', KINDS)
def test_files_give_what_mmdet_gives(detector, mmdets, images, name):
    path = str(images / name)
    expected = by_mmdet(mmdets, path)
    assert len(expected) == 10
    assert equal(detector(path, score_thr=0), expected, 1e-6)
    assert equal(by_mmdet(detector.model, path), expected, 1e-6)  # mmdet takes our model as well


@pytest.mark.parametrize('name', KINDS)
def test_pil_images_give_what_their_files_give(detector, images, name):
    with Image.open(images / name) as image:
        assert equal(detector(image, score_thr=0), detector(images / name, score_thr=0), 1e-6)


def test_arrays_are_bgr_as_in_mmdet(detector, mmdets, images):
    image = imread(images / 'colour.png')
    assert equal(detector(image, score_thr=0), by_mmdet(mmdets, image), 1e-6)
    assert equal(detector(image, score_thr=0), detector(images / 'colour.png', score_thr=0), 1e-6)


def test_arrays_of_other_kinds(detector, images):
    grey = np.asarray(Image.open(images / 'grey.png'))
    deep = np.asarray(Image.open(images / 'deep.png')).astype(np.uint16)
    opacity = np.asarray(Image.open(images / 'opacity.png'))[..., [2, 1, 0, 3]]
    for name, image in (('grey', grey), ('grey', grey[..., None]), ('deep', deep), ('opacity', opacity)):
        assert equal(detector(image, score_thr=0), detector(images / f'{name}.png', score_thr=0), 1e-6)


def test_a_batch_of_several_sizes_gives_what_single_images_give(detector, images):
    paths = [images / name for name in KINDS]
    single = [detector(path, score_thr=0) for path in paths]
    for batch_size in (3, 8):
        batch = detector(paths, score_thr=0, batch_size=batch_size)
        assert all(equal(a, b, 1e-3) for a, b in zip(batch, single, strict=True))
    assert detector([]) == []


def test_boxes_are_in_pixels_of_the_upright_image(detector, images):
    result = detector(images / 'turned.jpg', score_thr=0)  # stored as 60 x 40
    assert result.boxes[:, 2].max() <= 40
    assert 40 < result.boxes[:, 3].max() <= 60


def test_bad_arguments(detector, images):
    with pytest.raises(ValueError, match='batch_size has to be positive, got 0'):
        detector([images / 'colour.png'], batch_size=0)


def test_result(detector, images):
    everything = detector(images / 'colour.png', score_thr=0)
    assert everything.scores.tolist() == sorted(everything.scores.tolist(), reverse=True)
    middle = float(everything.scores[4])
    result = detector(images / 'colour.png', score_thr=middle)
    assert len(result) == 5
    assert equal(result, everything.above(middle), 0)
    assert result.names == [CLASSES[label] for label in result.labels]
    assert (result.masks, result.panoptic) == (None, None)
    assert repr(detector(images / 'colour.png', score_thr=1)) == '<Result: nothing found>'
    assert repr(everything) == f'<Result: {", ".join(_texts(everything)[:5])} and 5 more>'
    found = result.to_supervision()
    assert found.xyxy.tolist() == result.boxes.tolist()
    assert found.confidence.tolist() == result.scores.tolist()
    assert found.class_id.tolist() == result.labels.tolist()
    assert found.data['class_name'].tolist() == result.names


def _texts(result: Result) -> list[str]:
    return [f'{name} {score:.2f}' for name, score in zip(result.names, result.scores, strict=True)]


def test_masks_and_panoptic_maps(panoptic_detector, images):
    result = panoptic_detector(images / 'grey.png', score_thr=0)
    expected = inference_detector(panoptic_detector.model, str(images / 'grey.png'))
    assert result.masks.shape == (len(result), 50, 70)
    assert result.masks.tolist() == expected.pred_instances.masks.tolist()
    assert result.panoptic.tolist() == expected.pred_panoptic_seg.sem_seg[0].tolist()
    assert len(np.unique(result.panoptic)) > 1
    first = result.take(np.arange(len(result)) < 1)
    assert first.masks.tolist() == result.masks[:1].tolist()
    assert first.to_supervision().mask.tolist() == first.masks.tolist()


def test_an_address(detector, images):
    with loopback_server(images) as address:
        assert equal(detector(f'{address}/turned.jpg', 0), detector(images / 'turned.jpg', 0), 1e-6)
        with pytest.raises(UnreadableImageError, match=r'none\.jpg: .*404'):
            detector(f'{address}/none.jpg')


def test_images_that_cannot_be_read(detector, images, tmp_path):
    whole = (images / 'turned.jpg').read_bytes()
    for name, content, reason in (
        ('cut.jpg', whole[: len(whole) // 2], 'cut off'),
        ('text.png', b'text', 'no image'),
        ('empty.png', b'', 'empty'),
        ('none.png', None, 'no such file'),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImageError, match=f'{name}: .*{reason}'):
            detector(tmp_path / name)
    for array in (np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros(3)):
        with pytest.raises(UnreadableImageError, match='is no image'):
            detector(array)
    with pytest.raises(UnreadableImageError, match='cannot be decoded: image file is truncated'):
        detector(Image.open(tmp_path / 'cut.jpg'))
    with pytest.raises(UnreadableImageError, match='mode F'):
        detector(Image.new('F', (8, 8)))
    for nothing in (None, 3, iter(())):
        with pytest.raises(UnreadableImageError, match='no path, PIL image or array'):
            detector(nothing)
    for threshold in (-0.1, 2, float('nan')):
        with pytest.raises(ValueError, match='between 0 and 1'):
            detector(np.zeros((8, 8, 3), np.uint8), score_thr=threshold)


def test_nothing_of_the_process_is_changed(checkpoint, images):
    def state():
        scope = DefaultScope.get_current_instance()
        return scope.instance_name, torch.is_grad_enabled(), torch.get_num_threads(), Registry.get

    before = state()
    mmdet_detr.load(checkpoint, device='cpu')(images / 'colour.png')
    assert state() == before
