"""Encoder and decoder of DETR (paper section A.4, official ``models/transformer.py``).

They differ from ``torch.nn.Transformer`` in three points: position encodings are added to queries and keys of every
attention and never to values; there is no norm after the encoder; the decoder returns every layer's output, each
through the one shared final norm. Parameters have the official names.

Shapes: B images, S cells of the feature maps, N queries of all sets, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .queries import QuerySets, split_sets


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
            mask: bool (B, 1, 1 or Q, S), True on the keys to look at; None looks at all.

        Returns:
            Tensor (B, Q, C).
        """
        q, k, v = self._project(query, key, value)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout * self.training)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weights (B, heads, Q, S) by which :meth:`forward` sums the values, without dropout."""
        q, k, _ = self._project(query, key, value)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values of every head, each (B, heads, length, C/heads)."""
        embed_dims = self.out_proj.in_features
        # One matrix product serves queries and keys where they are the same tensor.
        widths = [2 * embed_dims, embed_dims] if query is key else [embed_dims] * 3
        inputs = (query, value) if query is key else (query, key, value)
        projected = [
            F.linear(x, weight, bias).unflatten(2, (-1, self.num_heads, embed_dims // self.num_heads))
            for x, weight, bias in zip(
                inputs, self.in_proj_weight.split(widths), self.in_proj_bias.split(widths), strict=True
            )
        ]
        return [x.transpose(1, 2) for parts in projected for x in parts.unbind(2)]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each followed by add and norm."""

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dims, num_heads, dropout)
        self.linear1 = nn.Linear(embed_dims, feedforward_channels)
        self.linear2 = nn.Linear(feedforward_channels, embed_dims)
        self.norm1 = nn.LayerNorm(embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.dropout = nn.Dropout(dropout)

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
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        sets: Sequence[QuerySets],
        query_pos: Tensor,
        memory_key: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None,
    ) -> Tensor:
        x = self.norm1(x + self.dropout(self._attend_within_sets(x, query_pos, sets)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + query_pos, memory_key, memory, memory_mask)))
        ffn = self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))
        return self.norm3(x + self.dropout(ffn))

    def _attend_within_sets(self, x: Tensor, query_pos: Tensor, sets: Sequence[QuerySets]) -> Tensor:
        """Self-attention (B, N, C) of the queries; every set is an entry of the batch to it."""
        attended = []
        for queries, value, key in zip(sets, split_sets(x, sets), split_sets(x + query_pos, sets), strict=True):
            mask = None if queries.mask is None else queries.mask.flatten(0, 1)[:, None]
            key, value = key.flatten(0, 1), value.flatten(0, 1)  # (B*G, Q, C)
            attended.append(self.self_attn(key, key, value, mask).view(x.shape[0], -1, x.shape[-1]))
        return torch.cat(attended, dim=1)


def run_layer(layer: nn.Module, with_cp: bool, *inputs: Any) -> Tensor:
    """Run a layer; with ``with_cp`` it keeps only its inputs, and the backward pass computes it again."""
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
        """Encode the cells of the feature maps.

        Args:
            x: features (B, S, C).
            pos: position encoding (1 or B, S, C).
            mask: bool (B, S), True on cells of the image; None where no image is padded.

        Returns:
            Memory (B, S, C).
        """
        mask = None if mask is None else mask[:, None, None]
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

    def forward(self, sets: Sequence[QuerySets], memory: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
        """Decode queries; sets do not see each other, and together they read the memory once a layer.

        Args:
            sets: queries.
            memory: encoder output (B, S, C).
            pos: position encoding of the memory (1 or B, S, C).
            mask: bool (B, S), True on cells of the image; None where no image is padded.

        Returns:
            Hidden states (L, B, N, C) of all layers; :func:`split_sets` tells the sets apart.
        """
        memory_key = memory + pos
        memory_mask = None if mask is None else mask[:, None, None]
        x, query_pos = (
            torch.cat([part.flatten(1, 2) for part in parts], dim=1)
            for parts in ([queries.content for queries in sets], [queries.pos for queries in sets])
        )
        hidden = []
        for layer in self.layers:
            x = run_layer(layer, self.with_cp, x, sets, query_pos, memory_key, memory, memory_mask)
            hidden.append(self.norm(x))
        return torch.stack(hidden)
