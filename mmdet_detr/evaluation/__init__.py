"""Metrics for mmengine's evaluator."""

from .coco_metric import CocoMetric
from .panoptic_metric import PanopticMetric
from .panoptic_quality import match_segments

__all__ = ['CocoMetric', 'PanopticMetric', 'match_segments']
