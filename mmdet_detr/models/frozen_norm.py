"""Fold batch normalisation with frozen statistics into the convolution before it.

The official recipe keeps the whole backbone in evaluation mode. A batch norm then scales and shifts every channel by
constants. Folded into the convolution's weights it needs no pass over the activations, forward or backward, and keeps
no activations for the gradient. Parameters keep their names and values; the gradient reaches a convolution's weight
through the product with the scale. The weights are folded in every call, which takes little beside the convolution, so
that they are never out of date.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .precision import at_least_float32


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that returns its input if the convolution before it has normalised already."""

    done = False

    def forward(self, x: Tensor) -> Tensor:
        done, self.done = self.done, False
        return x if done else super().forward(x)


class FoldingConv2d(nn.Conv2d):
    """A convolution that does the work of the batch norm behind it while that uses its running statistics."""

    block: tuple[nn.Module]  # A module outside of a tuple would become a child of this one.
    norm_name: str

    def forward(self, x: Tensor) -> Tensor:
        norm = self.block[0]._modules[self.norm_name]
        if not isinstance(norm, FoldedBatchNorm2d):  # Something replaced it, such as a synchronised norm.
            return super().forward(x)
        norm.done = not norm.training
        return self._conv_forward(x, *fold(self.weight, norm, x.dtype)) if norm.done else super().forward(x)


def fold(weight: Tensor, norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias, in the type of the input, of a convolution that does the norm's work too."""
    mean, var = at_least_float32(norm.running_mean), at_least_float32(norm.running_var)  # type: ignore[arg-type]
    scale = norm.weight * (var + norm.eps).rsqrt()
    return (weight * scale[:, None, None, None]).to(dtype), (norm.bias - mean * scale).to(dtype)


def fold_for_good(module: nn.Module) -> None:
    """Write folded weights into the convolutions of a module, in place, so that it cannot be trained any more."""
    for conv in module.modules():
        if not isinstance(conv, FoldingConv2d):
            continue
        norm = conv.block[0]._modules[conv.norm_name]
        if isinstance(norm, FoldedBatchNorm2d):
            weight, bias = fold(conv.weight, norm, conv.weight.dtype)
            conv.weight, conv.bias = (nn.Parameter(x.detach(), requires_grad=False) for x in (weight, bias))
            conv.block[0]._modules[conv.norm_name] = nn.Identity()
            object.__setattr__(conv, '__class__', nn.Conv2d)


def fold_frozen_norms(backbone: nn.Module) -> None:
    """Let convolutions of a ResNet do the work of the batch norms that follow them while those are in evaluation mode.

    In mmdet's ResNets, and in those built on them, a batch norm is registered right behind its convolution. Only the
    class of the two changes.
    """
    for block in backbone.modules():
        for (_, conv), (name, norm) in pairwise(block.named_children()):
            if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or conv.bias is not None:
                continue
            if norm.affine and norm.track_running_stats and conv.out_channels == norm.num_features:
                conv.__class__, norm.__class__ = FoldingConv2d, FoldedBatchNorm2d
                vars(conv).update(block=(block,), norm_name=name)
