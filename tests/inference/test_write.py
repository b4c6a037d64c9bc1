import csv
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmdet_detr.inference import Result
from mmdet_detr.inference.write import DetectionFiles

BOXES = np.array([[1.004, 2, 11.5, 22.25], [0, 0, 5, 5]], dtype=np.float32)
FOUND = Result(BOXES, np.array([0.75, 0.5], np.float32), np.array([1, 0]), ('cat', 'dog, "big"'))


def test_files_of_images(tmp_path):
    with DetectionFiles(tmp_path) as files:
        files.write('a.jpg', FOUND)
        files.write('b.jpg', FOUND.above(1))
        files.write('é.jpg', FOUND.above(0.6))
    entries = json.loads((tmp_path / 'detections.json').read_text())
    assert entries[0] == {
        'image_id': 0,
        'file_name': 'a.jpg',
        'category_id': 1,
        'category_name': 'dog, "big"',
        'bbox': [1.0, 2.0, 10.5, 20.25],
        'score': 0.75,
    }
    assert [(entry['image_id'], entry['file_name']) for entry in entries] == [(0, 'a.jpg'), (0, 'a.jpg'), (2, 'é.jpg')]
    with (tmp_path / 'detections.csv').open(newline='', encoding='utf-8') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['file', 'frame', 'class', 'score', 'x1', 'y1', 'x2', 'y2']
    assert rows[1] == ['a.jpg', '', 'dog, "big"', '0.75', '1.0', '2.0', '11.5', '22.25']
    assert len(rows) == 4


def test_coco_reads_the_results(tmp_path):
    with DetectionFiles(tmp_path) as files:
        files.write('a.jpg', FOUND)
    truth = COCO()
    truth.dataset = {'images': [{'id': 0}], 'categories': [{'id': 0}, {'id': 1}], 'annotations': []}
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / 'detections.json'))
    assert [annotation['area'] for annotation in results.loadAnns(results.getAnnIds())] == [10.5 * 20.25, 25]


def test_frames_and_masks(tmp_path):
    masks = np.zeros((2, 6, 7), bool)
    masks[0, 2:4, 1:5] = True
    result = Result(FOUND.boxes, FOUND.scores, FOUND.labels, FOUND.classes, masks)
    with DetectionFiles(tmp_path) as files:
        files.write('film.mp4', result, frame=0)
        files.write('film.mp4', result, frame=1)
    entries = json.loads((tmp_path / 'detections.json').read_text())
    assert [entry['frame'] for entry in entries] == [0, 0, 1, 1]
    assert coco_mask.decode(entries[0]['segmentation']).tolist() == masks[0].tolist()
    assert (tmp_path / 'detections.csv').read_text().splitlines()[-1].startswith('film.mp4,1,cat,')


def test_files_are_complete_after_an_error(tmp_path):
    def interrupted() -> None:
        with DetectionFiles(tmp_path) as files:
            files.write('a.jpg', FOUND)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(json.loads((tmp_path / 'detections.json').read_text())) == 2
    with DetectionFiles(tmp_path):
        pass
    assert json.loads((tmp_path / 'detections.json').read_text()) == []
