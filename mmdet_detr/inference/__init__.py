"""From a checkpoint and images to named boxes."""

from .detector import Detector
from .images import UnreadableImageError
from .load import load
from .result import Result

__all__ = ['Detector', 'Result', 'UnreadableImageError', 'load']
