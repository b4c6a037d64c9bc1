"""DETR (End-to-End Object Detection with Transformers, arXiv 2005.12872) for mmdet."""

from .missing_ops import stand_in_for_missing_ops
from .requirements import require_mmdet
from .version import __version__

stand_in_for_missing_ops()
require_mmdet()

__all__ = ['__version__']
