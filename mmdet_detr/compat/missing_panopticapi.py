"""Put a stand-in in the place of ``panopticapi`` where that package, which is not on PyPI, is absent.

mmdet loads, evaluates and saves panoptic segmentations with five names of the package: :func:`rgb2id`, :func:`id2rgb`,
:class:`PQStat`, :data:`OFFSET` and :data:`VOID`. They are written here from the definition of panoptic quality
(arXiv 1801.00868, section 4) and of COCO's format.
"""

import importlib.util
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

OFFSET = 256**3  # above every segment id
VOID = 0  # id of pixels without a segment

# These modules of mmdet look for the package when they are imported, and never again.
IMPORTERS = (
    'mmdet.apis.det_inferencer',
    'mmdet.evaluation.functional.panoptic_utils',
    'mmdet.evaluation.metrics.coco_panoptic_metric',
)


def rgb2id(color: Any) -> Any:
    """Segment ids R + 256 G + 65536 B of colours: (..., 3) integers to (...) int32, or three integers to an int."""
    if isinstance(color, np.ndarray):
        return color.astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)
    red, green, blue = map(int, color)
    return red + 256 * green + 65536 * blue


def id2rgb(id_map: Any) -> Any:
    """The inverse of :func:`rgb2id`: (...) ids to (..., 3) uint8, or an int to a list of three."""
    if isinstance(id_map, np.ndarray):
        return np.stack([id_map >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
    return [int(id_map) >> shift & 255 for shift in (0, 8, 16)]


@dataclass
class PQStatCat:
    """Counts of one class: matched pairs, the sum of their IoU, and segments without a partner."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __iadd__(self, other: 'PQStatCat') -> 'PQStatCat':
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        return self


class PQStat:
    """Counts of all classes, by category id; ``stat[id]`` makes the counts of a class that has none yet."""

    def __init__(self) -> None:
        self.pq_per_cat: defaultdict[int, PQStatCat] = defaultdict(PQStatCat)

    def __getitem__(self, category: int) -> PQStatCat:
        return self.pq_per_cat[category]

    def __iadd__(self, other: 'PQStat') -> 'PQStat':
        for category, counts in other.pq_per_cat.items():
            self.pq_per_cat[category] += counts
        return self

    def pq_average(
        self, categories: Mapping[int, Mapping[str, Any]], isthing: bool | None
    ) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
        """Panoptic, segmentation and recognition quality, between 0 and 1.

        Args:
            categories: by category id; each has ``isthing``, true or false.
            isthing: average over things (True), stuff (False) or all classes (None).

        Returns:
            ``pq``, ``sq`` and ``rq``, averaged over the ``n`` classes that have a segment in the truth or in the
            predictions; NaN where there is no such class, since nothing was measured. And the three of each class by
            its id; 0 for a class without a segment.
        """
        each, counted = {}, []
        for category, info in categories.items():
            if isthing is not None and bool(info['isthing']) != isthing:
                continue
            iou, tp, fp, fn = astuple(self.pq_per_cat.get(category, PQStatCat()))
            size = tp + fp / 2 + fn / 2
            quality = {'pq': iou / max(size, 0.5), 'sq': iou / max(tp, 1), 'rq': tp / max(size, 0.5)}
            each[category] = quality
            if size:
                counted.append(quality)
        means = {
            name: sum(quality[name] for quality in counted) / len(counted) if counted else float('nan')
            for name in ('pq', 'sq', 'rq')
        }
        return {**means, 'n': len(counted)}, each


def stand_in_for_panopticapi() -> None:
    """Let ``import panopticapi`` succeed without the package; do nothing where it is installed."""
    if importlib.util.find_spec('panopticapi') is not None:
        return
    contents: dict[str, dict[str, Any]] = {
        'panopticapi': {},
        'panopticapi.utils': {'rgb2id': rgb2id, 'id2rgb': id2rgb},
        'panopticapi.evaluation': {'OFFSET': OFFSET, 'VOID': VOID, 'PQStat': PQStat, 'PQStatCat': PQStatCat},
    }
    for name, content in contents.items():
        module = ModuleType(name, 'A stand-in by mmdet_detr.compat.missing_panopticapi.')
        module.__spec__ = ModuleSpec(name, None, is_package=name == 'panopticapi')
        vars(module).update(content)
        sys.modules[name] = module
        package, _, child = name.rpartition('.')
        if package:
            setattr(sys.modules[package], child, module)
    found = {'panopticapi': sys.modules['panopticapi'], **contents['panopticapi.utils']}
    found |= contents['panopticapi.evaluation']
    for importer in IMPORTERS:  # with compiled operators, mmdet can be imported before this package is
        names = vars(sys.modules[importer]) if importer in sys.modules else {}
        names.update({name: value for name, value in found.items() if name in names})
