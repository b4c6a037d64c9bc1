"""Metrics for mmengine's evaluator."""

from ..compat.terminal import quiet_imports

with quiet_imports():  # of mmdet's metrics
    from .coco_metric import CocoMetric
    from .panoptic_metric import PanopticMetric
    from .panoptic_quality import match_segments

__all__ = ['CocoMetric', 'PanopticMetric', 'match_segments']
