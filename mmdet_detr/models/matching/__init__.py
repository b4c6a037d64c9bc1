"""Predictions are matched with objects, and scored: the set prediction loss (paper section 3.1)."""

from .assigner import HungarianAssigner
from .loss import BipartiteMatchLoss

__all__ = ['BipartiteMatchLoss', 'HungarianAssigner']
