"""Batch normalisation with frozen statistics, folded into the convolution before it.

In evaluation mode, in which the official recipe keeps the whole backbone, a batch norm scales and shifts every channel
by constants. Folded into the convolution's weights it costs no pass over the activations, neither forward nor backward,
and keeps none for the gradient. Names and values of parameters stay what they are; the gradient of a convolution's
weight goes through the product with the scale.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .precision import at_least_float32

is_compiling = getattr(torch.compiler, 'is_dynamo_compiling', lambda: False)  # PyTorch 2.1 cannot tell


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that leaves alone what the convolution before it has normalised already."""

    done = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.done else super().forward(x)


class FoldingConv2d(nn.Conv2d):
    """A convolution that does the work of the batch norm behind it, as long as that uses its running statistics."""

    block: tuple[nn.Module]  # in a tuple, lest the parent becomes a child
    norm_name: str
    cache: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        norm = self.block[0]._modules[self.norm_name]
        if not isinstance(norm, FoldedBatchNorm2d):  # replaced, by a synchronised one for example
            return super().forward(x)
        norm.done = not norm.training
        return self._conv_forward(x, *self._folded(norm, x.dtype)) if norm.done else super().forward(x)

    def train(self, mode: bool = True) -> 'FoldingConv2d':
        self.cache = None  # averaged weights are swapped in between, in ways that leave no trace in the version
        return super().train(mode)

    def _folded(self, norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias in the input's type; kept from call to call where they need no gradient."""
        sources: tuple[Tensor, ...] = (self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)  # type: ignore[assignment]
        needs_grad = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if needs_grad or is_compiling():
            return fold(sources, norm.eps, dtype)
        key = (dtype, *(value for source in sources for value in (source.data_ptr(), source._version)))
        if self.cache is None or self.cache[0] != key:
            self.cache = key, fold(sources, norm.eps, dtype)
        return self.cache[1]


def fold(sources: tuple[Tensor, ...], eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does the norm's work too.

    Args:
        sources: the convolution's weight; scale, shift, mean and variance of the norm.
        eps: of the norm.
        dtype: of the result.
    """
    weight, gamma, beta, mean, var = sources
    scale = at_least_float32(gamma) * (at_least_float32(var) + eps).rsqrt()
    return (weight * scale[:, None, None, None]).to(dtype), (beta - mean * scale).to(dtype)


def fold_frozen_norms(backbone: nn.Module) -> None:
    """Let convolutions of a ResNet take over the batch norms that follow them, whenever those are in evaluation mode.

    In mmdet's ResNets, and in those built on them, a batch norm is registered behind the convolution whose output it
    takes. Only the class of the two changes.
    """
    for block in backbone.modules():
        for (_, conv), (name, norm) in pairwise(block.named_children()):
            if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or conv.bias is not None:
                continue
            if norm.affine and norm.track_running_stats and conv.out_channels == norm.num_features:
                conv.__class__, norm.__class__ = FoldingConv2d, FoldedBatchNorm2d
                vars(conv).update(block=(block,), norm_name=name)
