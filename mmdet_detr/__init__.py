"""DETR (End-to-End Object Detection with Transformers, arXiv 2005.12872) for mmdet."""

from .requirements import require_mmdet
from .version import __version__

require_mmdet()

from .checkpoints import register_find_latest, register_loaders  # noqa: E402  (need what was required)

register_loaders()
register_find_latest()

__all__ = ['__version__']
