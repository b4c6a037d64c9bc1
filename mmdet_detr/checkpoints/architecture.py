"""Read the sizes of a network from its state dict: depth of the backbone, widths and layers of the transformer."""

import re
from typing import NamedTuple

from torch import Tensor, nn

DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {  # (blocks of each stage, bottlenecks) of ResNets
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
PAPER_SIZES = (256, 6, 6, 2048)  # the last four fields of an Architecture
CONFIGS = {  # by depth, dilation of the last stage, and whether there is a mask head
    (18, False, False): 'configs/detr/detr_r18_8x2_500e_coco.py',
    (50, False, False): 'configs/detr/detr_r50_8x2_500e_coco.py',
    (50, True, False): 'configs/detr/detr_r50-dc5_8x1_500e_coco.py',
    (101, False, False): 'configs/detr/detr_r101_8x2_500e_coco.py',
    (101, True, False): 'configs/detr/detr_r101-dc5_8x1_500e_coco.py',
    (50, False, True): 'configs/detr/detr_r50_panoptic_8x2_25e_coco.py',
    (50, True, True): 'configs/detr/detr_r50-dc5_panoptic_8x1_25e_coco.py',
    (101, False, True): 'configs/detr/detr_r101_panoptic_8x2_25e_coco.py',
}


class Architecture(NamedTuple):
    """Sizes of a DETR: residual blocks of each stage of a ResNet (none for another backbone), and the transformer's."""

    blocks: tuple[int, ...]
    bottlenecks: bool
    embed_dims: int
    num_encoder_layers: int
    num_decoder_layers: int
    feedforward_channels: int

    @property
    def depth(self) -> int | None:
        """Depth of a standard ResNet."""
        return DEPTHS.get((self.blocks, self.bottlenecks))

    def __str__(self) -> str:
        kind = 'bottlenecks' if self.bottlenecks else 'basic blocks'
        backbone = f'a ResNet-{self.depth}' if self.depth else f'a ResNet of {list(self.blocks)} {kind}'
        return (
            f'{backbone if self.blocks else "another backbone"} with {self.num_encoder_layers} encoder and '
            f'{self.num_decoder_layers} decoder layers of width {self.embed_dims} and {self.feedforward_channels}'
        )


def architecture_of(weights: dict[str, Tensor]) -> Architecture:
    """Read the sizes from weights under our names."""
    stages = [_count(weights, rf'backbone\.layer{stage}\.(\d+)\.') for stage in range(1, 5)]
    norm = weights.get('neck.decoder.norm.weight')
    linear = weights.get('neck.decoder.layers.0.linear1.weight')
    return Architecture(
        blocks=tuple(filter(None, stages)),
        bottlenecks='backbone.layer1.0.conv3.weight' in weights,
        embed_dims=0 if norm is None else len(norm),
        num_encoder_layers=_count(weights, r'neck\.encoder\.layers\.(\d+)\.'),
        num_decoder_layers=_count(weights, r'neck\.decoder\.layers\.(\d+)\.'),
        feedforward_channels=0 if linear is None else len(linear),
    )


def config_for(architecture: Architecture, dilated: bool | None, masks: bool) -> str | None:
    """The config of a published architecture, with or without a mask head.

    These are two configs if it is not known whether the last stage is dilated.
    """
    if architecture[2:] != PAPER_SIZES:
        return None
    known = [CONFIGS.get((architecture.depth or 0, dc5, masks)) for dc5 in (False, True) if dilated in (None, dc5)]
    return ' or, for DC5, '.join(filter(None, known)) or None


def is_dilated(model: nn.Module) -> bool:
    """Whether the backbone has dilated convolutions."""
    backbone = model.get_submodule('backbone')
    return any(isinstance(conv, nn.Conv2d) and max(conv.dilation) > 1 for conv in backbone.modules())


def _count(weights: dict[str, Tensor], pattern: str) -> int:
    found = (re.match(pattern, name) for name in weights)
    return max((int(match[1]) + 1 for match in found if match), default=0)
