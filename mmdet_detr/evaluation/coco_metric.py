"""CocoMetric that maps labels to categories by name, and takes any ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric as MMDetCocoMetric

from ..datasets import AnnotationError
from ..errors import ConfigError
from ..registry import METRICS


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's ``CocoMetric``, for which the i-th label is the i-th class whatever the order of the file's categories.

    mmdet takes the file's categories that have the name of a class, in the order of the file. The result is wrong where
    the order of the classes is another one, and where the file has stuff before things.

    Annotations whose ids begin with 0 get new ones, because pycocotools takes the id 0 for no match: the object would
    count as missed, and the detection that finds it as wrong.

    Of a data set with ``thing_classes``, only things are evaluated, because COCO's instance files have no stuff.

    Args:
        args, kwargs: arguments of mmdet's ``CocoMetric``.

    Raises:
        ConfigError: the file has no category of the name of a class, or a class of things comes after stuff.
        AnnotationError: the file is not one of COCO's instances; or masks are evaluated, and an annotation has none
            that pycocotools reads.
    """

    def __init__(self, ann_file: str | None = None, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(ann_file, *args, **kwargs)
        except KeyError as error:
            if error.args[0] not in ('id', 'image_id', 'category_id'):
                raise
            raise AnnotationError(
                f"{ann_file} is no file of COCO's instances, which CocoMetric needs: an entry has no {error}"
            ) from error
        if self._coco_api is not None and 0 in self._coco_api.anns:
            annotations = self._coco_api.dataset['annotations']
            for number, annotation in enumerate(annotations, 1):
                annotation['id'] = number  # the indices by image and category hold the same objects
            self._coco_api.anns = {annotation['id']: annotation for annotation in annotations}

    @MMDetCocoMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict[str, Any]) -> None:
        self._dataset_meta = meta
        if self._coco_api is None:  # mmdet writes a file in the order of the labels
            return
        classes = [name for name in meta['classes'] if name in meta.get('thing_classes', meta['classes'])]
        if classes != list(meta['classes'][: len(classes)]):
            raise ConfigError(f'classes has stuff before the last of thing_classes: {", ".join(meta["classes"])}')
        used = self._coco_api.catToImgs  # some tools write a root category without boxes that has the name of a class
        categories = sorted(self._coco_api.dataset['categories'], key=lambda category: category['id'] in used)
        ids = {category['name']: category['id'] for category in categories}
        missing = [name for name in classes if name not in ids]
        if missing:
            raise ConfigError(
                f'the annotation file of CocoMetric has no category {", ".join(missing)}: set '
                'metainfo.classes to its names'
            )
        self.cat_ids = sorted(ids[name] for name in classes)  # pycocotools sorts them, and mmdet's tables need the same
        if 'segm' in self.metrics and not self.format_only:
            self._require_masks()
        self._positions = np.array([self.cat_ids.index(ids[name]) for name in classes], dtype=np.int64)

    def _require_masks(self) -> None:
        """pycocotools reads the mask of every object at the end of an epoch; say before what it cannot read."""
        annotations = self._coco_api.load_anns(self._coco_api.get_ann_ids(cat_ids=self.cat_ids))
        bad = []
        for annotation in annotations:
            try:
                self._coco_api.annToRLE(annotation)
            except Exception:  # it raises anything where there are no polygons and no run lengths
                bad.append(annotation['id'])
        if bad:
            raise AnnotationError(
                f"CocoMetric with metric='segm' needs a segmentation of every object, and {len(bad)} of "
                f'{len(annotations)} annotations have none that pycocotools reads; the first has the id {bad[0]}. '
                "metric='bbox' needs none"
            )

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Take over the predictions of a batch, with labels as positions in ``cat_ids``."""
        if self._coco_api is None:
            super().process(data_batch, data_samples)
            return
        super().process(data_batch, [self._things_of(sample) for sample in data_samples])
        for _, result in self.results[-len(data_samples) :]:
            result['labels'] = self._positions[result['labels']]

    def _things_of(self, sample: dict) -> dict:
        """A sample without detected stuff, which a panoptic model without masks has among its detections."""
        detections = sample['pred_instances']
        things = detections['labels'] < len(self._positions)
        if things.all():
            return sample
        return {**sample, 'pred_instances': {name: values[things] for name, values in detections.items()}}
