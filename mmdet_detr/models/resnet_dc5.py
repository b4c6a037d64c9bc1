"""Build a ResNet with a dilated last stage (the DC5 models of the paper, section 4)."""

from typing import Any

from mmdet.models.backbones import ResNet
from mmdet.models.layers import ResLayer
from torch import nn

from ..registry import MODELS


@MODELS.register_module()
class ResNetDC5(ResNet):
    """A ResNet whose last stage keeps its resolution, dilated as in torchvision.

    The official DC5 weights were trained with torchvision's ``replace_stride_with_dilation``. It leaves the first block
    of the stage at dilation 1 and dilates the others by 2. mmdet's ``dilations=(1, 1, 1, 2)`` dilates all of them, and
    has other outputs for the same weights. Takes mmdet's arguments except strides and dilations.
    """

    def __init__(self, depth: int, **kwargs: Any) -> None:
        super().__init__(depth, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), **kwargs)

    def make_res_layer(self, **kwargs: Any) -> ResLayer:
        layer = super().make_res_layer(**kwargs)
        for conv in layer[0].modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (1, 1)
        return layer
