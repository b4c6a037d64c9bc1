"""Choose the type in which boxes, costs and losses are computed."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Lift half-precision values, as autocast produces them, to float32; leave float32 and float64 alone."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
