"""Further sets of learnt queries that learn beside the queries of the network."""

import torch
from torch import Tensor, nn

from ...registry import MODELS
from ..matching import BipartiteMatchLoss
from ..matching.targets import Targets
from ..queries import QuerySets


@MODELS.register_module()
class QueryGroups(nn.Module):
    """Sets of learnt queries, each matched one to one by itself (Group DETR, arXiv 2207.13085).

    With the network's own queries, every object teaches ``num_groups + 1`` queries a step.

    Args:
        num_groups: G, sets beside the network's own one.
        num_queries: Q in each set.
        loss_weight: factor of the mean loss of the sets.
        num_classes: not read.
        embed_dims: C; the head fills it in.

    Raises:
        ValueError: there is no set or no query.
    """

    prefix = 'group'

    def __init__(
        self,
        num_groups: int = 2,
        num_queries: int = 100,
        loss_weight: float = 1.0,
        num_classes: int = 0,
        embed_dims: int = 256,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_queries < 1:
            raise ValueError(f'QueryGroups needs a group and a query, got {num_groups=} and {num_queries=}')
        self.loss_weight = loss_weight
        self.weight = nn.Parameter(torch.empty(num_groups, num_queries, embed_dims))
        nn.init.normal_(self.weight)

    def forward(self, targets: Targets) -> QuerySets:
        """The sets, the same for every image of a batch."""
        pos = self.weight.expand(len(targets.labels), -1, -1, -1)
        return QuerySets(pos.new_zeros(()).expand_as(pos), pos)

    def loss(self, logits: Tensor, boxes: Tensor, targets: Targets, match_loss: BipartiteMatchLoss) -> list[Tensor]:
        """Weighted losses of class, box and IoU: sums over the layers, means over the sets.

        Args:
            logits: (L, B, G, Q, K+1).
            boxes: (L, B, G, Q, 4), normalised cxcywh.
            targets: objects of the batch.
            match_loss: matches and scores; to it, sets are further layers.
        """
        num_groups = logits.shape[2]
        logits, boxes = (x.movedim(2, 0).flatten(0, 1) for x in (logits, boxes))
        losses, _ = match_loss.matched(logits, boxes, targets)
        return [self.loss_weight / num_groups * loss for loss in losses.sum(1)]
