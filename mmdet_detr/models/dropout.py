"""Dropout whose mask costs a CPU a fifth of the time: four values from one random number."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VALUES = 2**16  # of 16 random bits
is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)  # PyTorch 2.1 compiles nothing of ours


def draws_itself(x: Tensor) -> bool:
    """Whether the mask is drawn here: on a CPU, unless a compiler is at work, which does not know how."""
    return x.device.type == 'cpu' and not is_compiling()


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """``F.dropout``; on a CPU ``p`` is rounded to a multiple of 2**-16, and the scale belongs to the rounded one."""
    dropped = round(p * VALUES)
    if not training or dropped in (0, VALUES) or not draws_itself(x):
        return F.dropout(x, p, training)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = numbers.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - VALUES // 2
    return x * kept.to(x.dtype).mul_(VALUES / (VALUES - dropped))


class Dropout(nn.Dropout):
    """``nn.Dropout`` by :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
