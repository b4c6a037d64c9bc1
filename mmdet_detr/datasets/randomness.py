"""Seeds all random generators, so that random numbers depend on the place in a training alone."""

import random
from collections.abc import Sequence

import numpy as np
import torch


def seed_all(numbers: Sequence[int]) -> None:
    """Seed Python, NumPy and PyTorch on all devices by several non-negative integers together."""
    torch.manual_seed(seed_transforms(numbers))


def seed_transforms(numbers: Sequence[int]) -> int:
    """Seed the generators that a data pipeline draws from, which are not those of a GPU. Returns PyTorch's seed.

    ``torch.manual_seed`` formats a stack trace for each kind of device that is not in use: half a millisecond an image.
    """
    low, high = (int(word) for word in np.random.SeedSequence(numbers).generate_state(2))
    seed = low + (high << 32)
    random.seed(low)
    np.random.seed(high)
    torch.default_generator.manual_seed(seed)
    return seed
