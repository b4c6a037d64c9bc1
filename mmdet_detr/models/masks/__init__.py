"""Masks of the detected objects: head, loss and post-processing."""

from .mask_head import MaskHead
from .mask_loss import MaskLoss

__all__ = ['MaskHead', 'MaskLoss']
