"""Rows of attention weights are those of the whole, with every kind of mask."""

import torch
from torch import nn

from mmdet_detr.models.attention_weights import attention_weights
from mmdet_detr.models.transformer import Attention


def test_rows_of_attention_weights():
    attention = Attention(32, 4, 0.0)
    nn.init.normal_(attention.in_proj_weight)
    x, value = torch.randn(2, 6, 32), torch.randn(2, 6, 32)
    masks = [None, torch.rand(2, 1, 1, 6) > 0.3, torch.rand(2, 1, 6, 6) > 0.3]
    for mask in masks:
        if mask is not None:
            mask[..., 0] = True
        with attention_weights(nn.ModuleDict({'one': attention})) as weights:
            attention(x, x, value, mask)
        whole = attention.weights(x, x, value, mask)
        torch.testing.assert_close(weights['one'], whole)
        torch.testing.assert_close(weights.rows('one', [4, 1]), whole[:, :, [4, 1]])
