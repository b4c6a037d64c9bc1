"""Supervision of the encoder's memory: every cell predicts the object that it lies in."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.structures import SampleList
from torch import Tensor

from ...registry import MODELS
from ..matching import BipartiteMatchLoss
from ..matching.targets import Targets, upload
from ..padding import Size, image_sizes


@MODELS.register_module()
class DenseSupervision:
    """Lets the head predict class and box from every cell of the memory, one object for many cells.

    A decoder sums values of the memory, which carry no position by themselves, so that cells have to learn the absolute
    box of their object. Here they are told. The idea of collaborative training (Co-DETR, arXiv 2211.12860, section
    3.2), without heads of its own: the cells go through the branches of the decoder's queries.

    An object is assigned to the cells of each level whose centres lie inside its box and at most ``radius`` cells from
    its centre, and always to the nearest one. Of several objects, a cell gets the smallest. Cells of the padding are
    ignored.

    Args:
        radius: of the assigned cells around an object's centre, along each axis, in cells.
        loss_weight: factor of the loss.
        cls_weight: further factor of its classification.

    Raises:
        ValueError: the radius is negative.
    """

    prefix = 'dense'

    def __init__(self, radius: float = 1.5, loss_weight: float = 1.0, cls_weight: float = 1.0) -> None:
        if radius < 0:
            raise ValueError(f'DenseSupervision needs a radius of at least 0 cells, got {radius}')
        self.radius = radius
        self.loss_weights = (loss_weight * cls_weight, loss_weight, loss_weight)

    def loss(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Targets,
        batch_data_samples: SampleList,
        grid_sizes: Sequence[Size],
        match_loss: BipartiteMatchLoss,
    ) -> list[Tensor]:
        """Weighted losses of class, box and IoU.

        Args:
            logits: (B, S, K+1), of the S cells of all levels.
            boxes: (B, S, 4), normalised cxcywh.
            targets: objects of the batch.
            batch_data_samples: tell the sizes of images and input.
            grid_sizes: (rows, columns) of every level.
            match_loss: scores.
        """
        sizes, input_size = image_sizes(batch_data_samples)
        levels = [self.assign(targets, upload(sizes, boxes.device), input_size, grid) for grid in grid_sizes]
        objects, padding = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        no_object = logits.shape[-1] - (not match_loss.use_sigmoid)
        # An object more, for the cells that have none.
        labels = F.pad(targets.labels, (0, 1), value=no_object).gather(1, objects)
        goal = F.pad(targets.boxes, (0, 0, 0, 1)).gather(1, objects[..., None].expand(-1, -1, 4))
        losses = match_loss.assigned(logits[None], boxes[None], labels, goal, ignored=padding)
        return [weight * loss for weight, loss in zip(self.loss_weights, losses.sum(1), strict=True)]

    @torch.no_grad()
    def assign(self, targets: Targets, sizes: Tensor, input_size: Size, grid_size: Size) -> tuple[Tensor, Tensor]:
        """Assign objects to the cells of a level.

        Args:
            targets: objects of the batch.
            sizes: (h, w) of every image in pixels, (B, 2).
            input_size: (H, W) of the padded input in pixels.
            grid_size: (rows, columns) of the level.

        Returns:
            Index of the object of every cell, int64 (B, S), T where there is none; and which cells have their centre in
            the padding, bool (B, S).
        """
        stride = upload(torch.tensor(input_size) / torch.tensor(grid_size), sizes.device)  # (yx,) in pixels
        rows, columns = (torch.arange(number, device=sizes.device) + 0.5 for number in grid_size)
        cells = torch.cartesian_prod(rows, columns) * stride  # (S, yx) in pixels
        padding = (cells > sizes[:, None]).any(-1)
        center, size = (targets.boxes.float().unflatten(-1, (2, 2)).flip(-1) * sizes[:, None, None]).unbind(2)
        distance = cells[:, None] - center[:, None]  # (B, S, T, yx)
        assigned = (distance.abs() < torch.minimum(size / 2, self.radius * stride)[:, None]).all(-1)
        squares = distance.square().sum(-1).masked_fill(padding[..., None], torch.inf)
        nearest = torch.zeros_like(assigned).scatter_(1, squares.argmin(1, keepdim=True), value=True)
        assigned = (assigned | nearest) & targets.valid[:, None] & ~padding[..., None]
        area = size.prod(-1)[:, None].expand_as(assigned).masked_fill(~assigned, torch.inf)
        # The largest area stands for no object, behind the objects of the image.
        return F.pad(area, (0, 1), value=torch.finfo(area.dtype).max).argmin(-1), padding
