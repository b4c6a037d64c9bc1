"""Writes detections to files as they come, so that memory does not grow with their number."""

import csv
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .result import Result

COLUMNS = ('file', 'frame', 'class', 'score', 'x1', 'y1', 'x2', 'y2')


class DetectionFiles:
    """``detections.json`` and ``detections.csv`` in a folder; a context manager that completes them, whatever happens.

    The JSON is a list in the form of COCO's results, which ``COCO.loadRes`` takes: ``image_id`` (number of the image or
    frame, from 0), ``category_id`` (number of the class, from 0), ``bbox`` (x, y, width, height in pixels), ``score``
    and, of a model with masks, ``segmentation`` (run lengths); and with them ``file_name``, ``category_name`` and, in a
    video, ``frame``. The CSV has the columns of ``COLUMNS``.
    """

    def __init__(self, folder: Path) -> None:
        self._json = (folder / 'detections.json').open('w', encoding='utf-8')
        self._table = (folder / 'detections.csv').open('w', encoding='utf-8', newline='')
        self._rows = csv.writer(self._table)
        self._rows.writerow(COLUMNS)
        self._separator = '['
        self._num_images = 0
        self.num_detections = 0

    def __enter__(self) -> 'DetectionFiles':
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._json.write(']\n' if self.num_detections else '[]\n')
        self._json.close()
        self._table.close()

    def write(self, name: str, result: Result, frame: int | None = None) -> None:
        """Write the detections of the next image or frame of a file."""
        for index, (name_of_class, box) in enumerate(zip(result.names, result.boxes.tolist(), strict=True)):
            x1, y1, x2, y2 = (round(side, 2) for side in box)
            score = round(float(result.scores[index]), 4)
            entry: dict[str, Any] = {
                'image_id': self._num_images,
                'file_name': name,
                'category_id': int(result.labels[index]),
                'category_name': name_of_class,
                'bbox': [x1, y1, round(box[2] - box[0], 2), round(box[3] - box[1], 2)],
                'score': score,
            }
            if frame is not None:
                entry['frame'] = frame
            if result.masks is not None:
                lengths = coco_mask.encode(np.asfortranarray(result.masks[index], dtype=np.uint8))
                entry['segmentation'] = {'size': list(lengths['size']), 'counts': lengths['counts'].decode()}
            self._json.write(f'{self._separator}\n{json.dumps(entry)}')
            self._separator = ','
            self._rows.writerow([name, '' if frame is None else frame, name_of_class, score, x1, y1, x2, y2])
            self.num_detections += 1
        self._num_images += 1
