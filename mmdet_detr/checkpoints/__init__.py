"""Read, fit and write checkpoints of DETR implementations."""

from ..errors import CheckpointError, CheckpointNotFoundError
from .files import register_loaders

__all__ = ['CheckpointError', 'CheckpointNotFoundError', 'register_loaders']
