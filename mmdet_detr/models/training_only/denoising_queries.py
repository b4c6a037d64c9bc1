"""Queries that start from noised objects and learn to restore them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import MODELS
from ..matching import BipartiteMatchLoss
from ..matching.targets import Targets
from ..mlp import MLP
from ..position_encoding import SCALE, sine_and_cosine
from ..queries import QuerySets


@MODELS.register_module()
class DenoisingQueries(nn.Module):
    """Sets of queries with one for each object, made of its noised label and box (DN-DETR, arXiv 2203.01305).

    It is known which object each of them has to find, so nothing is matched. Contrary to DN-DETR, the sets do not meet
    the network's own queries in any attention, and the position of a query is the embedding of its box.

    Args:
        num_sets: G, noised copies of the objects.
        box_noise: most that a corner moves, in halves of the box's side, at most 1.
        label_noise: share of the labels that are drawn anew.
        loss_weight: factor of the loss.
        cls_weight: further factor of its classification.
        max_queries: images with many objects get fewer sets, so that there are no more queries than that, but one set
            at least.
        num_classes: K; the head fills it in.
        embed_dims: C; the head fills it in.

    Raises:
        ValueError: there is no set or no query, or the noise is out of range.
    """

    prefix = 'dn'

    def __init__(
        self,
        num_sets: int = 3,
        box_noise: float = 0.4,
        label_noise: float = 0.2,
        loss_weight: float = 1.0,
        cls_weight: float = 1.0,
        max_queries: int = 500,
        num_classes: int = 80,
        embed_dims: int = 256,
    ) -> None:
        super().__init__()
        if num_sets < 1 or max_queries < 1 or not 0 <= box_noise <= 1 or not 0 <= label_noise <= 1:
            raise ValueError(
                f'DenoisingQueries needs a set, a query and noise from 0 to 1, got {num_sets=}, {max_queries=}, '
                f'{box_noise=}, {label_noise=}'
            )
        self.num_sets = num_sets
        self.box_noise = box_noise
        self.label_noise = label_noise
        self.loss_weights = (loss_weight * cls_weight, loss_weight, loss_weight)
        self.max_queries = max_queries
        self.label_embed = nn.Embedding(num_classes, embed_dims)
        self.box_embed = MLP(2 * embed_dims, embed_dims, embed_dims, num_layers=2)

    def forward(self, targets: Targets) -> QuerySets:
        """Noised copies of the objects; the noise is drawn from PyTorch's generator of the device."""
        labels, boxes, valid = self._copies(targets)
        drawn = torch.randint_like(labels, self.label_embed.num_embeddings)
        labels = torch.where(torch.rand_like(boxes[..., 0]) < self.label_noise, drawn, labels)
        center, size = boxes.chunk(2, dim=-1)
        low, high = (
            (corner + self.box_noise * size * (torch.rand_like(size) - 0.5)).clamp(0, 1)
            for corner in (center - size / 2, center + size / 2)
        )
        noised = torch.cat(((low + high) / 2, high - low), dim=-1)
        code = sine_and_cosine(noised * SCALE, self.label_embed.embedding_dim // 2).flatten(-2)  # (B, G, T, 2C)
        # Attention over nothing would be NaN: the queries of an image without objects look at the first one.
        seen = valid.clone()
        seen[..., 0] |= ~valid.any(-1)
        pos = self.box_embed(code.to(self.label_embed.weight.dtype))
        return QuerySets(self.label_embed(labels).to(pos.dtype), pos, mask=seen[:, :, None])

    def loss(self, logits: Tensor, boxes: Tensor, targets: Targets, match_loss: BipartiteMatchLoss) -> list[Tensor]:
        """Weighted losses of class, box and IoU, summed over the layers.

        Args:
            logits: (L, B, G, T, K+1).
            boxes: (L, B, G, T, 4), normalised cxcywh.
            targets: objects of the batch.
            match_loss: scores.
        """
        labels, goal, valid = (x.flatten(1, 2) for x in self._copies(targets))
        losses = match_loss.assigned(logits.flatten(2, 3), boxes.flatten(2, 3), labels, goal, ignored=~valid)
        return [weight * loss for weight, loss in zip(self.loss_weights, losses.sum(1), strict=True)]

    def _copies(self, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (B, G, T), boxes (B, G, T, 4) and validity (B, G, T) of the objects; T is at least 1."""
        labels, boxes, valid = targets.labels, targets.boxes, targets.valid
        if not labels.shape[1]:  # Even without objects, every parameter takes part in the step, as DDP demands.
            labels, boxes, valid = F.pad(labels, (0, 1)), F.pad(boxes, (0, 0, 0, 1)), F.pad(valid, (0, 1))
        num_sets = max(1, min(self.num_sets, self.max_queries // labels.shape[1]))
        labels, boxes, valid = (x[:, None].expand(-1, num_sets, *x.shape[1:]) for x in (labels, boxes, valid))
        return labels, boxes, valid
