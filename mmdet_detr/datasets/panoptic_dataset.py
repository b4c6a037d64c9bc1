"""A COCO panoptic data set in which every segment is an object."""

import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmdet.datasets import CocoPanopticDataset
from mmdet.datasets.transforms import LoadAnnotations

from ..errors import ConfigError
from ..log import warn
from ..registry import DATASETS
from .annotations import Document, check_classes, first_names, read_annotations
from .ground_truth import ending_problems
from .images import BrokenImageError, inspect_image, is_local
from .load_panoptic_segments import LoadPanopticSegments
from .panoptic_annotations import check_panoptic, of_classes, split_classes
from .robust_coco_dataset import RobustCocoDataset

SPLIT = ('thing_classes', 'stuff_classes')


@DATASETS.register_module()
class PanopticDataset(RobustCocoDataset):
    """COCO's panoptic format, for data that nobody has checked.

    Unlike mmdet's ``CocoPanopticDataset``, every segment is an object: things, stuff and crowds, as in the official
    ``datasets/coco_panoptic.py``. Labels follow ``metainfo['classes']`` by name, whatever the order of the file, and
    things have to come first. Segments of other categories are left out: their pixels belong to no object. The PNG of
    an image is the ``file_name`` of its annotation, which is found by ``image_id``. What cannot be used is left out and
    reported as :class:`RobustCocoDataset` does; an image without a sound PNG counts as broken.

    A sample has, beside mmdet's keys:

    - ``seg_map_path``: path of the PNG, for :class:`LoadPanopticSegments`;
    - ``instances``: for each segment ``bbox_label``, ``segment_id`` (its colour in the PNG), ``is_thing``,
      ``iscrowd``, ``ignore_flag`` 0, and ``bbox`` (xyxy in pixels) if the file has a sound one;
    - ``segments_info``: ``id``, ``category`` (the label) and ``is_thing`` (False for crowds) of each, for mmdet's
      ``CocoPanopticMetric``.

    Args:
        data_prefix: ``img`` and ``seg``, the folders of images and PNGs below ``data_root``.
        metainfo: ``classes``; ``thing_classes`` and ``stuff_classes`` are needed if ``isthing`` is missing in the file.
        kwargs: arguments of :class:`RobustCocoDataset`.

    Raises:
        ConfigError: ``data_prefix`` has no ``seg`` although the file has segments; or the pipeline loads masks by
            mmdet's ``LoadAnnotations``.
        AnnotationError: the annotation file does not have the structure of COCO's.
        BrokenDataError: too much is broken, a class is missing in the file or is neither thing nor stuff, or stuff
            comes before things in ``classes``.
    """

    METAINFO = CocoPanopticDataset.METAINFO

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        """COCO's things and stuff are no default for other classes."""
        loaded = super()._load_metainfo(metainfo)
        given = metainfo or {}
        return {k: v for k, v in loaded.items() if k not in SPLIT or 'classes' not in given or k in given}

    def _read(self, path: str) -> Document:
        """The sound segments of the classes of the config, with categories in their order."""
        for step in self.pipeline.transforms:
            if isinstance(step, LoadAnnotations) and (step.with_mask or step.with_seg):
                raise ConfigError(
                    f'PanopticDataset has masks in PNGs: load them with mmdet_detr.LoadPanopticSegments, in place of '
                    f'{type(step).__name__}'
                )
        given = read_annotations(path, labelled=not self.test_mode)
        labelled = not self.test_mode or (self.evaluated and bool(given['annotations']))
        document, self.problems = check_panoptic(given, self.allow_outside, labelled)
        self._report(document)
        classes = self.metainfo['classes']
        things, stuff, found = split_classes(document['categories'], classes, *map(self.metainfo.get, SPLIT))
        if not self.test_mode or self.evaluated:
            self._require_none(check_classes(document, classes, in_order=False) + found)
        self._metainfo.update(thing_classes=things, stuff_classes=stuff)
        if self.test_mode and self.evaluated:
            self._require_ground_truth(given, ending_problems(self.problems))
        document, others = of_classes(document, classes)
        if others:
            warn(
                f'{self.ann_file}: {others.total()} segments are left out, since the config has no class for '
                f'{first_names([name for name, _ in others.most_common()])}'
            )
        if document['annotations'] and 'seg' not in self.data_prefix:
            raise ConfigError("PanopticDataset needs data_prefix=dict(img=..., seg='folder of the PNGs')")
        return document

    def parse_data_info(self, raw_data_info: dict) -> dict:
        image, segments = raw_data_info['raw_img_info'], raw_data_info['raw_ann_info']
        info = super().parse_data_info({'raw_img_info': image, 'raw_ann_info': []})
        name, folder = image.get('segment_map'), self.data_prefix.get('seg')
        info['seg_map_path'] = None if name is None or folder is None else osp.join(folder, name)
        info['instances'] = [self._instance(segment) for segment in segments]
        info['segments_info'] = [
            {
                'id': instance['segment_id'],
                'category': instance['bbox_label'],
                'is_thing': instance['is_thing'] and not instance['iscrowd'],
            }
            for instance in info['instances']
        ]
        return info

    def _instance(self, segment: dict[str, Any]) -> dict[str, Any]:
        label = self.cat2label[segment['category_id']]
        instance = {
            'bbox_label': label,
            'ignore_flag': 0,
            'segment_id': segment['segment_id'],
            'is_thing': label < len(self._metainfo['thing_classes']),
            'iscrowd': segment['iscrowd'],
        }
        if 'bbox' in segment:
            x, y, w, h = segment['bbox']
            instance['bbox'] = [x, y, x + w, y + h]
        return instance

    def _inspect(self, info: dict[str, Any]) -> None:
        super()._inspect(info)
        path = info['seg_map_path']
        loader = next((t for t in self.pipeline.transforms if isinstance(t, LoadPanopticSegments)), None)
        unread = loader is None and not (self.test_mode and self.evaluated)
        if path is None or unread or not is_local(path, getattr(loader, 'backend_args', None)):
            return
        try:
            inspect_image(path, self.max_pixels, (info['width'], info['height']), ignore_orientation=True)
        except BrokenImageError as error:
            raise BrokenImageError(f'{path}: {error}') from None
