"""Loads every segment of a panoptic image as an object with a box and a mask."""

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

from ..errors import ConfigError
from ..log import warn
from ..registry import TRANSFORMS
from .segment_map import read_segment_map

BOXES = ('masks', 'json')


@TRANSFORMS.register_module()
class LoadPanopticSegments(BaseTransform):
    """Load masks and boxes of all segments, things and stuff, that a :class:`PanopticDataset` lists.

    This follows the official ``datasets/coco_panoptic.py``.

    A segment without a pixel in the PNG is left out with a warning, and pixels of no segment belong to no object.

    Args:
        box_from: 'masks' takes the first and the last column and row of a segment's pixels, as the official code does:
            a box from 3 to 5 covers the pixels 3, 4 and 5. A segment of one column or row ends a pixel further. 'json'
            takes the annotated box, which ends a pixel further; a segment without one gets the box of its mask, ended
            alike.
        backend_args: mmengine's arguments of the storage of the PNGs.

    Raises:
        ConfigError: ``box_from`` is neither.
    """

    def __init__(self, box_from: str = 'masks', backend_args: dict | None = None) -> None:
        if box_from not in BOXES:
            raise ConfigError(f'box_from has to be one of {BOXES}, got {box_from!r}')
        self.box_from = box_from
        self.backend_args = backend_args
        self._named: set[str] = set()  # PNGs whose segments without pixels are in the log

    def transform(self, results: dict) -> dict:
        """Read ``instances``, ``seg_map_path`` and ``height``, ``width`` of the image.

        Returns:
            ``results`` with ``gt_bboxes`` (N, 4) xyxy in pixels, ``gt_bboxes_labels`` (N,) int64, ``gt_ignore_flags``
            (N,) all False, and ``gt_masks`` of N bitmaps (H, W) uint8; N segments, all in the same order.

        Raises:
            BrokenImageError: the PNG cannot be used.
            ConfigError: the data set has no PNG for the image.
        """
        path, instances = results.get('seg_map_path'), results['instances']
        if path is None:
            raise ConfigError(
                f'{results.get("img_path")} has no PNG of segments: LoadPanopticSegments needs a '
                "mmdet_detr.PanopticDataset with data_prefix=dict(img=..., seg='folder of the PNGs')"
            )
        height, width = results['height'], results['width']
        segment_map = read_segment_map(path, (width, height), self.backend_args)
        segments = np.array([instance['segment_id'] for instance in instances], dtype=np.int32)
        masks = segment_map == segments[:, None, None]  # (N, H, W)
        boxes, seen = mask_boxes(masks)
        if not seen.all():
            self._warn(path, segments[~seen].tolist())
            masks, boxes = masks[seen], boxes[seen]
            instances = [instance for instance, kept in zip(instances, seen, strict=True) if kept]
        boxes[:, 2:] += self.box_from == 'json' or boxes[:, 2:] == boxes[:, :2]
        if self.box_from == 'json':
            for box, instance in zip(boxes, instances, strict=True):
                box[:] = instance.get('bbox', box)
        labels = [instance['bbox_label'] for instance in instances]
        results['gt_bboxes'] = HorizontalBoxes(torch.from_numpy(boxes))
        results['gt_bboxes_labels'] = np.array(labels, dtype=np.int64)
        results['gt_ignore_flags'] = np.zeros(len(labels), dtype=bool)
        results['gt_masks'] = BitmapMasks(masks.view(np.uint8), height, width)
        return results

    def _warn(self, path: str, segments: list[int]) -> None:
        if path not in self._named:
            self._named.add(path)
            warn(f'{path}: no pixel of segment {", ".join(map(str, segments))}: left out')

    def __repr__(self) -> str:
        return f'{type(self).__name__}(box_from={self.box_from!r}, backend_args={self.backend_args})'


def mask_boxes(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the first and the last column and row of masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        Boxes (N, 4) float32: x and y of the first, x and y of the last pixel; and (N,) bool, whether a mask has pixels.
        The box of a mask without pixels means nothing.
    """
    columns, rows = np.any(masks, axis=1), np.any(masks, axis=2)  # (N, W), (N, H)
    first = [line.argmax(1) for line in (columns, rows)]
    last = [line.shape[1] - 1 - line[:, ::-1].argmax(1) for line in (columns, rows)]
    return np.stack((*first, *last), axis=1).astype(np.float32), np.any(columns, axis=1)
