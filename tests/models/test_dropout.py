import pytest
import torch
from torch import nn

from mmdet_detr.models.dropout import Dropout, dropout
from mmdet_detr.models.transformer import Attention


@pytest.mark.parametrize('p', [0.05, 0.1, 0.5, 0.9])
def test_share_and_scale(p):
    x = torch.full((1001, 997), 3.0, requires_grad=True)  # no multiple of four
    out = dropout(x, p, training=True)
    dropped = (out == 0).float()
    assert dropped.mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-16)
    assert dropped.mean(0).std().item() == pytest.approx((p * (1 - p) / 1001) ** 0.5, rel=0.1)  # no columns, no rows
    assert dropped.mean(1).std().item() == pytest.approx((p * (1 - p) / 997) ** 0.5, rel=0.1)
    neighbours = torch.corrcoef(torch.stack((dropped.flatten()[:-1], dropped.flatten()[1:])))[0, 1]
    assert abs(neighbours.item()) < 0.005
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 3 / (1 - p)), rtol=2e-4, atol=0)
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach() / 3)


def test_seed_decides():
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(torch.ones(100)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_what_is_not_dropped():
    x = torch.randn(3, 5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)
    assert not dropout(x, 1.0, training=True).any()
    assert dropout(x[:0], 0.5, training=True).shape == (0, 5)
    assert dropout(x.bfloat16(), 0.5, training=True).dtype == torch.bfloat16


def test_attention_with_dropout_has_the_mean_of_that_without():
    torch.manual_seed(0)
    attention = Attention(16, 2, 0.3)
    nn.init.normal_(attention.in_proj_weight, std=0.3)
    x = torch.randn(1, 5, 16)
    memory = torch.randn(1, 7, 16)
    mask = torch.tensor([True] * 4 + [False] * 3)[None, None, None]
    expected = attention.eval()(x, memory, memory, mask)
    attention.train()
    many = attention(x.expand(20000, -1, -1), memory.expand(20000, -1, -1), memory.expand(20000, -1, -1), mask)
    torch.testing.assert_close(many.mean(0, keepdim=True), expected, rtol=0, atol=0.02)
    assert many.std(0).min() > 0.01
    memory[:, 4:] = torch.nan  # where the mask hides it
    attention.dropout = 1e-9  # nothing is dropped, on the same path
    torch.testing.assert_close(attention(x, memory.nan_to_num(9.0), memory.nan_to_num(9.0), mask), expected)
