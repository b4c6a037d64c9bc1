"""Choose the order in which a backbone's activations lie in memory."""

from torch import nn

NARROW = 16  # channels


def prefers_channels_last(backbone: nn.Module) -> bool:
    """Whether a backbone should compute in channels last, where convolutions are faster on CPUs and tensor cores.

    Toy backbones with strided 1x1 convolutions of fewer than 16 channels should not: in channels last the backward
    pass of such a convolution on several threads writes beyond its memory (oneDNN in PyTorch 2.1 to 2.13).
    """
    for conv in backbone.modules():
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or max(conv.stride) == 1:
            continue
        if conv.in_channels // conv.groups < NARROW:
            return False
    return True
