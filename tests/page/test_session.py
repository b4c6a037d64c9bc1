"""What the page shows of one detector on one image, without a page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bad_files import write_bad_files
from detectors import small_config
from mmengine.config import Config
from PIL import Image

from mmdet_detr import load
from mmdet_detr.attention import attend
from mmdet_detr.errors import UserError
from mmdet_detr.inference import Result, UnreadableImageError
from mmdet_detr.page.session import LEAST, LONGEST, Findings, find, queries_of, read


@pytest.fixture(scope='module')
def findings(detector, images) -> Findings:
    return find(detector, read(detector, images / 'grey.png')[0], 'grey.png')


def test_a_threshold_needs_no_second_run(detector, images, monkeypatch):
    image, _ = read(detector, images / 'grey.png')
    findings = find(detector, image, 'grey.png')
    expected = {score_thr: detector(image, score_thr) for score_thr in (LEAST, 0.3, 0.7)}
    monkeypatch.setattr(type(detector), '__call__', None)
    counts = [findings.count(score_thr) for score_thr in expected]
    assert counts == [len(result) for result in expected.values()]
    assert counts[0] > counts[-1] > 0
    for count, result in zip(counts, expected.values(), strict=True):
        entries = json.loads(findings.json(count))
        assert [entry['category_name'] for entry in entries] == result.names
        np.testing.assert_allclose([entry['score'] for entry in entries], result.scores, atol=1e-4)
        left, top, width, height = np.array([entry['bbox'] for entry in entries]).T
        np.testing.assert_allclose(np.stack((left, top, left + width, top + height), 1), result.boxes, atol=0.02)
        assert [row[0] for row in findings.rows(count)] == list(range(1, count + 1))


def test_queries_are_those_of_the_detections(detector, images):
    attention = attend(detector, images / 'grey.png', LEAST)
    queries = queries_of(attention.found, attention.layers[-1])
    assert queries.tolist() == attention.queries.tolist()
    one = Result(np.zeros((1, 4)), np.full(1, 0.5), np.zeros(1, int), ('a',))
    two = Result(np.zeros((2, 4)), np.array([0.1, 0.5]), np.zeros(2, int), ('a',))
    assert queries_of(one, two).tolist() == [1]
    assert queries_of(one.take(np.zeros(0, int)), two).tolist() == []


def test_a_click_takes_the_smallest_box_around_it(findings):
    boxes = np.array([[0, 0, 40, 40], [10, 10, 20, 20], [12, 12, 18, 18]], dtype=np.float32)
    shown = Result(boxes, np.array([0.9, 0.8, 0.1]), np.zeros(3, int), ('circle',))
    few = replace(findings, shown=shown)
    assert few.at(15, 15, 3) == 2
    assert few.at(15, 15, 2) == 1
    assert few.at(30, 30, 3) == 0
    assert few.at(60, 30, 3) is None
    assert few.at(15, 15, 0) is None


def test_small_images_are_enlarged(detector, images):
    image, _ = read(detector, images / 'grey.png')  # 50 x 70 pixels
    findings = find(detector, image, 'grey.png')
    assert findings.image.shape == findings.picture(0).shape == (300, 420, 3)
    np.testing.assert_allclose(findings.shown.boxes / 6, detector(image, LEAST).boxes, rtol=1e-5)
    framed = (findings.picture(0, 0) != findings.picture(0)).any(-1)
    assert framed.any()
    left, top, right, bottom = findings.shown.boxes[0].astype(int)
    assert not framed[top + 9 : bottom - 9, left + 9 : right - 9].any()


def test_where_a_query_looked(findings):
    attention = findings.attention
    assert attention is not None
    picture, text = findings.look(1, layer=2, head=3)
    weights = attention.decoder(int(findings.queries[1]), 2, 3, picture.shape[:2])
    brightest = np.unravel_index(weights.argmax(), weights.shape)
    assert text.startswith(
        f'Where query {findings.queries[1]} looks to find {findings.title(1)}: decoder layer 2 of 3, head 3.'
    )
    assert f'{weights.max():.1%}' in text
    row, column = brightest
    assert picture[row, column, 0] > 200 or np.ptp(picture[row, column]) == 0  # orange, or the frame of the box over it
    assert (findings.look(1)[0] != findings.look(0)[0]).any()
    with pytest.raises(UserError, match='there is no decoder layer 9'):
        findings.look(0, layer=9)


def test_large_images_are_drawn_smaller(detector):
    image = np.random.default_rng(0).integers(0, 256, (500, 2000, 3), dtype=np.uint8)
    findings = find(detector, image, 'wide.jpg')
    assert findings.image.shape == (LONGEST * 500 // 2000, LONGEST, 3)
    count = findings.count(0.3)
    whole = detector(image, 0.3)
    np.testing.assert_allclose(findings.shown.take(np.arange(count)).boxes * 2000 / LONGEST, whole.boxes, atol=0.01)
    assert findings.picture(count, 0).shape == findings.image.shape
    assert findings.look(0)[0].shape == findings.image.shape


def test_a_network_sees_no_more_than_it_can(checkpoint, monkeypatch):
    """A detector whose config does not resize would see a photograph as it is."""
    config = small_config()
    del config.test_dataloader.dataset.pipeline[1]
    detector = load(checkpoint, config, 'cpu')
    monkeypatch.setattr('mmdet_detr.page.session.MAX_SEEN', 20_000)
    image = np.random.default_rng(0).integers(0, 256, (200, 800, 3), dtype=np.uint8)
    seen = []
    detector.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    findings = find(detector, image, 'photo.jpg')
    assert seen[0] == (71, 283)
    assert findings.note == f'seen at {seen[0][1]} x {seen[0][0]} pixels, because the config does not resize it'
    left, top, width, height = findings.entries[0]['bbox']
    box = np.array([left, top, left + width, top + height])
    scale = np.array(findings.image.shape[1::-1] * 2) / (800, 200, 800, 200)
    np.testing.assert_allclose(findings.shown.boxes[0], box * scale, atol=0.1)
    assert find(detector, image[:100, :100], 'part.jpg').note == ''
    find(detector, image[:1], 'line.jpg')


def test_masks_and_map(panoptic_detector, images):
    image, _ = read(panoptic_detector, images / 'grey.png')
    findings = find(panoptic_detector, image, 'grey.png')
    count = findings.count(0.3)
    assert count
    boxes, panoptic = (findings.picture(count, panoptic=choice) for choice in (False, True))
    assert panoptic.shape[1] > boxes.shape[1]  # it has a legend
    assert json.loads(findings.json(count))[0]['segmentation']['size'] == list(image.shape[:2])
    large = find(panoptic_detector, image.repeat(40, 0).repeat(40, 1), 'large.png')
    assert large.shown.masks.shape[1:] == large.shown.panoptic.shape == large.image.shape[:2]


def test_a_detector_without_queries_is_shown_as_well(detector, images, monkeypatch):
    monkeypatch.setattr('mmdet_detr.attention.compute.DETRHead', Config)
    image, _ = read(detector, images / 'grey.png')
    findings = find(detector, image, 'grey.png')
    assert len(findings.shown) == len(detector(image, LEAST))
    with pytest.raises(UserError, match=r'DETR has no mmdet_detr.DETRHead: only its attention can be drawn'):
        findings.look(0)


def test_files(detector, images, tmp_path):
    reasons = write_bad_files(tmp_path)
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError) as error:
            read(detector, tmp_path / name)
        assert str(error.value).startswith(f'{name}: ')
        assert reason in str(error.value)
        assert '\n' not in str(error.value)
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(UnreadableImageError, match=r'^none.png: there is no such file$'):
        read(detector, tmp_path / 'none.png')
    frames = [Image.new('RGB', (60, 40), colour) for colour in ('red', 'blue')]
    frames[0].save(tmp_path / 'film.gif', save_all=True, append_images=frames[1:])
    image, note = read(detector, tmp_path / 'film.gif')
    assert image.reshape(-1, 3).tolist() == [[0, 0, 255]] * 2400
    assert note == 'film.gif is animated: its first picture is used'
    image, note = read(detector, images / 'deep.png')
    assert image.dtype == np.uint8
    assert note == 'deep.png has 16 bits: their upper half is used'
    image, note = read(detector, images / 'turned.jpg')
    assert (image.shape, note) == ((60, 40, 3), '')
