"""DETR (End-to-End Object Detection with Transformers, arXiv 2005.12872) for mmdet."""

from typing import TYPE_CHECKING, Any

from .compat.requirements import require_mmdet
from .version import __version__

require_mmdet()

from .checkpoints import register_loaders  # noqa: E402  (needs mmdet)
from .compat.latest_checkpoint import register_find_latest  # noqa: E402

register_loaders()
register_find_latest()

if TYPE_CHECKING:
    from .inference import load

__all__ = ['__version__', 'load']


def __getattr__(name: str) -> Any:
    if name != 'load':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .compat.terminal import quiet_imports

    with quiet_imports():  # of mmdet's models, which takes seconds
        from .inference import load
    return load
