"""Checkpoints of other implementations, and ours for them."""

from .errors import CheckpointError, CheckpointNotFoundError
from .read import register_loaders

__all__ = ['CheckpointError', 'CheckpointNotFoundError', 'register_loaders']
