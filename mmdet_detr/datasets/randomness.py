"""Seeds all random generators, so that random numbers depend on the place in a training alone."""

import random
from collections.abc import Sequence

import numpy as np
import torch


def seed_all(numbers: Sequence[int]) -> None:
    """Seed Python, NumPy and PyTorch by several non-negative integers together."""
    low, high = (int(word) for word in np.random.SeedSequence(numbers).generate_state(2))
    random.seed(low)
    np.random.seed(high)
    torch.manual_seed(low + (high << 32))
