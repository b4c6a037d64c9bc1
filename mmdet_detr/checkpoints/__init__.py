"""Checkpoints of other implementations, and ours for them."""

from .errors import CheckpointError, CheckpointNotFoundError
from .latest import register_find_latest
from .read import register_loaders

__all__ = ['CheckpointError', 'CheckpointNotFoundError', 'register_find_latest', 'register_loaders']
