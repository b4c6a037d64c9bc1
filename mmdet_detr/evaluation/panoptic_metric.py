"""Panoptic quality on COCO's panoptic files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmdet.evaluation.metrics.coco_panoptic_metric import parse_pq_results, print_panoptic_table
from mmdet.structures import INSTANCE_OFFSET
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get, get_local_path, join_path
from mmengine.logging import MMLogger

from ..compat.missing_panopticapi import PQStat, id2rgb, rgb2id
from ..datasets.annotations import AnnotationError, Document, leads_outside, read_annotations
from ..datasets.robust_coco_dataset import BrokenDataError
from ..errors import ConfigError
from ..log import warn
from ..registry import METRICS
from .panoptic_quality import Segment, match_segments


@METRICS.register_module()
class PanopticMetric(BaseMetric):
    """Panoptic, segmentation and recognition quality in per cent, under the names of mmdet's ``CocoPanopticMetric``.

    ``coco_panoptic/PQ``, ``SQ`` and ``RQ`` are over all classes, ``PQ_th`` and so on over things, ``PQ_st`` over stuff;
    NaN where no class of the kind has a segment. Contrary to mmdet's metric:

    - The truth of an image is the PNG that its annotation names, wherever the image is. Areas are counted in the PNG,
      ``iscrowd`` is 0 where it is missing, and a segment without a pixel does not count.
    - Classes are matched by name. Things are ``thing_classes`` of the data set, and if it has none, what ``isthing`` of
      the file says. Segments of categories that the data set does not name are VOID, like pixels of unknown ids.
    - Predictions are not changed, and no file is written unless ``outfile_prefix`` is given.

    A prediction is ``pred_panoptic_seg.sem_seg`` (1, H, W) in the original size: label + 1000 * instance. Labels from
    the number of classes on are VOID.

    Args:
        ann_file: COCO panoptic JSON.
        seg_prefix: folder of the PNGs; by default the path of ``ann_file`` without ``.json``, as COCO names it.
        classwise: whether to log the three of each class.
        format_only: write the results, and evaluate nothing; ``ann_file`` needs no annotations then.
        outfile_prefix: write the predictions in COCO's format: ``{outfile_prefix}.panoptic.json``, and PNGs in the
            folder ``{outfile_prefix}.panoptic``. With several machines it has to be on a storage that they share.
        backend_args: of mmengine's file backend, for ``ann_file`` and the PNGs.
        collect_device: 'cpu' or 'gpu': how ranks exchange their results.
        prefix: stands before the names of the results instead of ``coco_panoptic``.

    Raises:
        AnnotationError: ``ann_file`` is no panoptic file, or its PNGs are not there.
        ConfigError: the file lacks a class of the data set, nothing tells things from stuff, ``format_only`` without
            ``outfile_prefix``, or the model predicts no panoptic map.
        BrokenDataError: a PNG cannot be decoded or has another size than the prediction.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str | None = None,
        classwise: bool = False,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and outfile_prefix is None:
            raise ConfigError('PanopticMetric with format_only needs outfile_prefix')
        self.ann_file = ann_file
        self.seg_prefix = str(ann_file).removesuffix('.json') if seg_prefix is None else seg_prefix
        self.classwise = classwise
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        with get_local_path(ann_file, backend_args=backend_args) as path:
            document = read_annotations(path, labelled=not format_only)
        self._categories: list[dict] = document['categories']
        self._annotations = self._read(document)
        self._labels: dict[Any, int] = {}  # by category id of the file
        self._label_infos: dict[int, dict] = {}

    def _read(self, document: Document) -> dict[Any, dict]:
        """The annotation of each image by its id; without segments where the file has no annotation of an image."""
        annotations = {entry['image_id']: entry for entry in self._entries(document, 'annotations', 'segments_info')}
        for entry in annotations.values():
            for segment in entry['segments_info']:
                if not isinstance(segment, dict) or not {'id', 'category_id'} <= segment.keys():
                    raise AnnotationError(
                        f'{self.ann_file}: a segment of {entry["file_name"]} has no id or category_id'
                    )
        unknown = []
        for image in self._entries(document, 'images'):
            if image['id'] not in annotations:
                unknown.append(image['file_name'])
                name = Path(image['file_name']).with_suffix('.png').as_posix()
                annotations[image['id']] = {'image_id': image['id'], 'file_name': name, 'segments_info': None}
        if unknown and not self.format_only:
            warn(f'{self.ann_file}: {len(unknown)} images have no annotation and are not evaluated: {unknown[0]}')
        if self.backend_args is None and not self.format_only:
            paths = [self._path(entry) for entry in annotations.values() if entry['segments_info'] is not None]
            missing = [path for path in paths if not Path(path).is_file()]
            if missing:
                raise AnnotationError(f'{self.ann_file}: {len(missing)} of {len(paths)} PNGs are missing: {missing[0]}')
        return annotations

    def _entries(self, document: Document, kind: str, *needed: str) -> list[dict]:
        """A list of the file, after a look at the keys and at the name of each entry."""
        for number, entry in enumerate(document[kind]):
            keys = ('id' if kind == 'images' else 'image_id', 'file_name', *needed)
            for key in keys:
                if not isinstance(entry, dict) or key not in entry:
                    raise AnnotationError(f'{self.ann_file}: {kind}[{number}] has no {key}: it is no panoptic file')
            if leads_outside(entry['file_name']):
                raise AnnotationError(
                    f'{self.ann_file}: {kind}[{number}] lies outside its folder: {entry["file_name"]}'
                )
        return document[kind]

    def _path(self, annotation: dict) -> str:
        return join_path(self.seg_prefix, annotation['file_name'], backend_args=self.backend_args)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict[str, Any]) -> None:
        """Take over the classes of the data set."""
        self._dataset_meta = meta
        ids = {category['name']: category['id'] for category in self._categories}
        missing = [name for name in meta['classes'] if name not in ids]
        if missing:
            raise ConfigError(f'{self.ann_file} has no category {", ".join(missing)}')
        things = meta.get('thing_classes')
        if things is None:
            if any('isthing' not in category for category in self._categories):
                raise ConfigError(f'{self.ann_file} has no isthing: the metainfo of the data set needs thing_classes')
            things = [category['name'] for category in self._categories if category['isthing']]
        self._labels = {ids[name]: label for label, name in enumerate(meta['classes'])}
        self._label_infos = {
            label: {'id': ids[name], 'name': name, 'isthing': int(name in things)}
            for label, name in enumerate(meta['classes'])
        }

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Match the predictions of a batch with the truth."""
        for sample in data_samples:
            if 'pred_panoptic_seg' not in sample:
                raise ConfigError('PanopticMetric needs a model that predicts a panoptic map, with classes of stuff')
            annotation = self._annotations.get(sample['img_id'])
            if annotation is None:
                raise BrokenDataError(f'{self.ann_file} has no image with the id {sample["img_id"]}')
            prediction = sample['pred_panoptic_seg']['sem_seg'][0].cpu().numpy()
            values = [v for v in np.unique(prediction).tolist() if v % INSTANCE_OFFSET < len(self._label_infos)]
            segments = {value: Segment(value % INSTANCE_OFFSET) for value in values}
            stat = PQStat() if self.format_only else self._compare(annotation, prediction, segments)
            written = None if self.outfile_prefix is None else self._write(annotation, prediction, segments)
            self.results.append((stat, written))

    def _compare(self, annotation: dict, prediction: np.ndarray, segments: dict[int, Segment]) -> PQStat:
        if annotation['segments_info'] is None:
            return PQStat()
        true = {
            segment['id']: Segment(self._labels[segment['category_id']], bool(segment.get('iscrowd')))
            for segment in annotation['segments_info']
            if segment['category_id'] in self._labels
        }
        path = self._path(annotation)
        colours = mmcv.imfrombytes(get(path, backend_args=self.backend_args))
        if colours is None:
            raise BrokenDataError(f'{path} cannot be decoded')
        try:
            return match_segments(rgb2id(colours[..., ::-1]), true, prediction, segments)
        except ValueError as error:
            raise BrokenDataError(f'{path}: {error}') from error

    def _write(self, annotation: dict, prediction: np.ndarray, segments: dict[int, Segment]) -> dict[str, Any]:
        """Write a PNG in which segments are numbered from 1, and return its entry in the JSON."""
        colours = np.zeros_like(prediction)
        infos = []
        for number, (value, segment) in enumerate(segments.items(), 1):
            mask = prediction == value
            colours[mask] = number
            info = self._label_infos[segment.label]
            infos.append({'id': number, 'category_id': info['id'], 'isthing': info['isthing'], 'area': int(mask.sum())})
        path = Path(f'{self.outfile_prefix}.panoptic', annotation['file_name'])
        mmcv.imwrite(id2rgb(colours)[..., ::-1], str(path))
        return {'image_id': annotation['image_id'], 'file_name': annotation['file_name'], 'segments_info': infos}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Sum up the counts of all images; by name."""
        logger = MMLogger.get_current_instance()
        if self.outfile_prefix is not None:
            path = Path(f'{self.outfile_prefix}.panoptic.json')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({'annotations': [written for _, written in results]}))
            logger.info(f'Panoptic results are in {path}')
        if self.format_only:
            return {}
        total = PQStat()
        for stat, _ in results:
            total += stat
        kinds = {'All': None, 'Things': True, 'Stuff': False}
        averages = {name: total.pq_average(self._label_infos, isthing)[0] for name, isthing in kinds.items()}
        each = total.pq_average(self._label_infos, None)[1]
        by_name = {self._label_infos[label]['name']: quality for label, quality in each.items()}
        print_panoptic_table(averages, by_name if self.classwise else None, logger=logger)
        return parse_pq_results(averages)
