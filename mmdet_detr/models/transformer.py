"""Encoder and decoder of DETR (paper section A.4, official ``models/transformer.py``).

They differ from ``torch.nn.Transformer`` in three points: position encodings are added to queries and keys of every
attention and never to values; there is no norm after the encoder; the decoder returns every layer's output, each
through the one shared final norm. Parameters have the official names.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .dropout import Dropout, draws_itself, dropout


class Attention(nn.Module):
    """Multi-head attention on the fused kernel, with the parameters of ``torch.nn.MultiheadAttention``."""

    def __init__(self, embed_dims: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims))
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, S, C).
            value: (B, S, C).
            mask: bool (B, 1, 1, S), True on the keys to look at; None looks at all.

        Returns:
            Tensor (B, Q, C).
        """
        embed_dims = self.out_proj.in_features
        widths = [2 * embed_dims, embed_dims] if query is key else [embed_dims] * 3
        inputs = (query, value) if query is key else (query, key, value)
        projected = [
            F.linear(x, weight, bias).unflatten(2, (-1, self.num_heads, embed_dims // self.num_heads))
            for x, weight, bias in zip(
                inputs, self.in_proj_weight.split(widths), self.in_proj_bias.split(widths), strict=True
            )
        ]
        q, k, v = (x.transpose(1, 2) for parts in projected for x in parts.unbind(2))  # (B, heads, length, C/heads)
        if self.training and self.dropout and draws_itself(q):  # no fused kernel has a dropout there
            weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            if mask is not None:
                weights = weights.masked_fill(~mask, -torch.inf)
            out = dropout(weights.softmax(-1), self.dropout, training=True) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout * self.training)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each followed by add and norm."""

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dims, num_heads, dropout)
        self.linear1 = nn.Linear(embed_dims, feedforward_channels)
        self.linear2 = nn.Linear(feedforward_channels, embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        q = k = x + pos
        x = self.norm1(x + self.dropout(self.self_attn(q, k, x, mask)))
        ffn = self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))
        return self.norm2(x + self.dropout(ffn))


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the memory, feed-forward network, each with add and norm."""

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dims, num_heads, dropout)
        self.multihead_attn = Attention(embed_dims, num_heads, dropout)
        self.linear1 = nn.Linear(embed_dims, feedforward_channels)
        self.linear2 = nn.Linear(feedforward_channels, embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.norm3 = nn.LayerNorm(embed_dims)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, query_pos: Tensor, memory_key: Tensor, memory: Tensor, memory_mask: Tensor | None
    ) -> Tensor:
        q = k = x + query_pos
        x = self.norm1(x + self.dropout(self.self_attn(q, k, x)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + query_pos, memory_key, memory, memory_mask)))
        ffn = self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))
        return self.norm3(x + self.dropout(ffn))


def run_layer(layer: nn.Module, with_cp: bool, *inputs: Any) -> Tensor:
    """Run a layer; with ``with_cp`` it keeps nothing for the backward pass, which computes it again."""
    if with_cp and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


class Encoder(nn.Module):
    """A stack of encoder layers, without a final norm."""

    def __init__(
        self,
        num_layers: int,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        dropout: float,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.layers = nn.ModuleList(
            EncoderLayer(embed_dims, num_heads, feedforward_channels, dropout) for _ in range(num_layers)
        )

    def forward(self, x: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        """Encode (B, S, C) features with (1 or B, S, C) positions; ``mask`` as in :class:`Attention`."""
        for layer in self.layers:
            x = run_layer(layer, self.with_cp, x, pos, mask)
        return x


class Decoder(nn.Module):
    """A stack of decoder layers; every layer's output goes through the one final norm."""

    def __init__(
        self,
        num_layers: int,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        dropout: float,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.layers = nn.ModuleList(
            DecoderLayer(embed_dims, num_heads, feedforward_channels, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, query_pos: Tensor, memory: Tensor, pos: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Decode queries, which start as zeros.

        Args:
            query_pos: learnt queries (B, Q, C).
            memory: encoder output (B, S, C).
            pos: position encoding of the memory (1 or B, S, C).
            memory_mask: as in :class:`Attention`.

        Returns:
            Hidden states (L, B, Q, C) of all layers.
        """
        memory_key = memory + pos
        x = torch.zeros_like(query_pos)
        hidden = []
        for layer in self.layers:
            x = run_layer(layer, self.with_cp, x, query_pos, memory_key, memory, memory_mask)
            hidden.append(self.norm(x))
        return torch.stack(hidden)
