"""Panoptic quality on COCO's panoptic files."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.evaluation.metrics.coco_panoptic_metric import parse_pq_results, print_panoptic_table
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path, join_path
from mmengine.logging import MMLogger

from ..compat.missing_panopticapi import PQStat, id2rgb
from ..datasets import AnnotationError, BrokenDataError, BrokenImageError
from ..datasets.annotations import read_annotations
from ..datasets.ground_truth import ending_problems
from ..datasets.panoptic_annotations import check_panoptic, split_classes
from ..datasets.problems import summary
from ..datasets.robust_coco_dataset import CLEAN
from ..datasets.segment_map import read_segment_map
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
      and ``iscrowd`` is 0 where it is missing.
    - Classes are matched by name. Things are ``thing_classes`` of the data set, or what ``isthing`` of the file says.
      Segments of categories that the data set does not name are VOID, like pixels of unknown ids.
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
        AnnotationError: ``ann_file`` cannot be evaluated, or its PNGs are not there.
        ConfigError: the file lacks a class of the data set, or things and stuff are not told apart or not in this
            order; ``format_only`` without ``outfile_prefix``; or the model predicts no panoptic map.
        BrokenDataError: a PNG cannot be read or has another size than the prediction.
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
            raise ConfigError('PanopticMetric(format_only=True) needs outfile_prefix, the path to write to')
        self.ann_file = ann_file
        self.seg_prefix = str(ann_file).removesuffix('.json') if seg_prefix is None else seg_prefix
        self.classwise = classwise
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        with get_local_path(ann_file, backend_args=backend_args) as path:
            document, problems = check_panoptic(read_annotations(path, not format_only), labelled=not format_only)
        fatal = [problem for problem in ending_problems(problems) if problem.fatal]
        if fatal:
            raise AnnotationError(f'{ann_file} cannot be evaluated: {summary(fatal)}; the first: {fatal[0]}. {CLEAN}')
        self._categories: list[dict] = document['categories']
        self._images: dict[int | str, dict] = {image['id']: image for image in document['images']}
        self._segments: defaultdict[int | str, list[dict]] = defaultdict(list)  # by image
        for segment in document['annotations']:
            self._segments[segment['image_id']].append(segment)
        self._labels: dict[int | str, int] = {}  # by category id of the file
        self._infos: dict[int, dict[str, Any]] = {}  # id, name and isthing by label
        if not format_only and backend_args is None:
            missing = [path for path in map(self._path, self._images.values()) if not Path(path).is_file()]
            if missing:
                raise AnnotationError(
                    f'{ann_file}: {len(missing)} of its PNGs are not there: {missing[0]}. Set seg_prefix to '
                    'their folder'
                )

    def _path(self, image: dict) -> str:
        return join_path(self.seg_prefix, image['segment_map'], backend_args=self.backend_args)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict[str, Any]) -> None:
        """Take over the classes of the data set."""
        self._dataset_meta = meta
        classes = meta['classes']
        ids = {category['name']: category['id'] for category in self._categories}
        missing = [name for name in classes if name not in ids]
        if missing:
            raise ConfigError(
                f'{self.ann_file} has no category {", ".join(missing)}: set metainfo.classes to its names'
            )
        kinds = (meta.get('thing_classes'), meta.get('stuff_classes'))
        things, _, problems = split_classes(self._categories, classes, *kinds)
        for problem in problems:
            raise ConfigError(f'{self.ann_file}: {problem}')
        self._labels = {ids[name]: label for label, name in enumerate(classes)}
        self._infos = {
            label: {'id': ids[name], 'name': name, 'isthing': int(name in things)} for label, name in enumerate(classes)
        }

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Match the predictions of a batch with the truth."""
        for sample in data_samples:
            if 'pred_panoptic_seg' not in sample:
                raise ConfigError(
                    'PanopticMetric needs a model that predicts a panoptic map: DETR(mask_head=...) with a '
                    'num_things_classes below the number of classes'
                )
            image = self._images.get(sample['img_id'])
            if image is None:
                raise BrokenDataError(
                    f'{self.ann_file} has no image with the id {sample["img_id"]}: the data loader has to read it too'
                )
            prediction = sample['pred_panoptic_seg']['sem_seg'][0].cpu().numpy()
            values = [value for value in np.unique(prediction).tolist() if value % INSTANCE_OFFSET < len(self._infos)]
            segments = {value: Segment(value % INSTANCE_OFFSET) for value in values}
            stat = PQStat() if self.format_only else self._compare(image, prediction, segments)
            written = None if self.outfile_prefix is None else self._write(image, prediction, segments)
            self.results.append((stat, written, len(segments)))

    def _compare(self, image: dict, prediction: np.ndarray, segments: dict[int, Segment]) -> PQStat:
        true = {
            segment['segment_id']: Segment(self._labels[segment['category_id']], bool(segment['iscrowd']))
            for segment in self._segments[image['id']]
            if segment['category_id'] in self._labels
        }
        path = self._path(image)
        try:
            truth = read_segment_map(path, (image['width'], image['height']), self.backend_args)
        except BrokenImageError as error:
            raise BrokenDataError(str(error)) from error
        try:
            return match_segments(truth, true, prediction, segments)
        except ValueError as error:
            raise BrokenDataError(f'{path}: {error}') from error

    def _write(self, image: dict, prediction: np.ndarray, segments: dict[int, Segment]) -> dict[str, Any]:
        """Write a PNG in which segments are numbered from 1, and return its entry in the JSON."""
        numbers = np.zeros_like(prediction)
        entries = []
        for number, (value, segment) in enumerate(segments.items(), 1):
            mask = prediction == value
            numbers[mask] = number
            info = self._infos[segment.label]
            entries.append(
                {'id': number, 'category_id': info['id'], 'isthing': info['isthing'], 'area': int(mask.sum())}
            )
        name = image.get('segment_map', Path(image['file_name']).with_suffix('.png').as_posix())
        mmcv.imwrite(id2rgb(numbers)[..., ::-1], str(Path(f'{self.outfile_prefix}.panoptic', name)))
        return {'image_id': image['id'], 'file_name': name, 'segments_info': entries}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Sum up the counts of all images; by name."""
        logger = MMLogger.get_current_instance()
        if self.outfile_prefix is not None:
            path = Path(f'{self.outfile_prefix}.panoptic.json')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({'annotations': [written for _, written, _ in results]}))
            logger.info(f'Panoptic results are in {path}')
        if self.format_only:
            return {}
        total = PQStat()
        for stat, _, _ in results:
            total += stat
        if results and not any(number for _, _, number in results):
            warn(
                f'no segment is predicted in {len(results)} images; panoptic.score_thr of test_cfg may be too high for '
                'a model that has trained little'
            )
        kinds = {'All': None, 'Things': True, 'Stuff': False}
        averages = {name: total.pq_average(self._infos, isthing)[0] for name, isthing in kinds.items()}
        each = total.pq_average(self._infos, None)[1]
        by_name = {self._infos[label]['name']: quality for label, quality in each.items()}
        print_panoptic_table(averages, by_name if self.classwise else None, logger=logger)
        return parse_pq_results(averages)
