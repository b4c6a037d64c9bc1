"""Checkpoints of other implementations, and ours for them."""

from .read import CheckpointError, register_loaders

__all__ = ['CheckpointError', 'register_loaders']
