"""DETR (End-to-End Object Detection with Transformers, arXiv 2005.12872) for mmdet."""

from .compat.requirements import require_mmdet
from .version import __version__

require_mmdet()

from .checkpoints import register_loaders  # noqa: E402  (needs mmdet)
from .compat.latest_checkpoint import register_find_latest  # noqa: E402

register_loaders()
register_find_latest()

__all__ = ['__version__']
