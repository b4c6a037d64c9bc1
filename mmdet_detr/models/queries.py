"""What the decoder decodes: sets of queries, of which each keeps to itself."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class QuerySets(NamedTuple):
    """G sets of Q queries each. A query attends to the queries of its own set only, and to the whole memory."""

    content: Tensor  # (B, G, Q, C), what the first decoder layer starts from
    pos: Tensor  # (B, G, Q, C), added to queries and keys in every layer
    mask: Tensor | None = None  # bool (B, G, 1 or Q, Q), True on the queries to look at; None looks at all


class LearntQueries(nn.Module):
    """The queries of the paper (section 3.2): a learnt position each, and a content of zeros."""

    def __init__(self, num_queries: int, embed_dims: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_queries, embed_dims))
        nn.init.normal_(self.weight)

    def forward(self, batch_size: int) -> QuerySets:
        """One set of queries, the same for every image of a batch."""
        pos = self.weight.expand(batch_size, 1, -1, -1)
        return QuerySets(pos.new_zeros(()).expand_as(pos), pos)


def split_sets(x: Tensor, sets: Sequence[QuerySets]) -> list[Tensor]:
    """Undo the concatenation of all queries: (..., sum of G*Q, C) becomes a tensor (..., G, Q, C) for each entry."""
    parts = x.split([queries.pos.shape[1] * queries.pos.shape[2] for queries in sets], dim=-2)
    return [part.unflatten(-2, queries.pos.shape[1:3]) for part, queries in zip(parts, sets, strict=True)]
