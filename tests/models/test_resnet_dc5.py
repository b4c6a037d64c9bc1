import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_detr.models import ResNetDC5


def conv_bn(x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, **kwargs: int) -> Tensor:
    return F.batch_norm(F.conv2d(x, conv.weight, **kwargs), bn.running_mean, bn.running_var, bn.weight, bn.bias)


def test_last_stage_is_dilated_as_in_torchvision():
    """torchvision's last stage has no stride, and dilation 1 in the first block and 2 in the two others."""
    backbone = ResNetDC5(50, base_channels=8, out_indices=(2, 3), norm_cfg={'type': 'BN'})
    backbone.eval()  # not chained: mmdet's method returns None
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        c4, c5 = backbone(torch.randn(1, 3, 64, 96))
        x = c4
        for block, dilation in zip(backbone.layer4, (1, 2, 2), strict=True):
            out = F.relu(conv_bn(x, block.conv1, block.bn1))
            out = F.relu(conv_bn(out, block.conv2, block.bn2, dilation=dilation, padding=dilation))
            out = conv_bn(out, block.conv3, block.bn3)
            x = F.relu(out + (x if block.downsample is None else conv_bn(x, *block.downsample)))
    assert c5.shape[-2:] == c4.shape[-2:] == (4, 6)
    torch.testing.assert_close(c5, x)
