"""Supervision of the encoder's memory: every cell predicts the object that it lies in."""

import torch
import torch.nn.functional as F
from mmdet.structures import SampleList
from torch import Tensor

from ...registry import MODELS
from ..matching import BipartiteMatchLoss
from ..matching.targets import Targets, upload
from ..padding import Size, image_sizes
from ..transformer_neck import TransformerOutput


@MODELS.register_module()
class DenseSupervision:
    """Lets the head predict class and box from every cell of the memory, one object for many cells.

    A decoder sums values of the memory, which carry no position by themselves, so that cells have to learn the absolute
    box of their object. Here they are told. The idea of collaborative training (Co-DETR, arXiv 2211.12860, section
    3.2), without heads of its own: the cells go through the branches of the decoder's queries.

    An object is assigned to the cells of each level whose centres lie inside its box and at most ``radius`` cells from
    its centre, and to the nearest one in any case. Of several objects, a cell gets the smallest. Cells of the padding
    are ignored.

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
        output: TransformerOutput,
        match_loss: BipartiteMatchLoss,
    ) -> list[Tensor]:
        """Weighted losses of class, box and IoU.

        Args:
            logits: (B, S, K+1), of the S cells of all levels.
            boxes: (B, S, 4), normalised cxcywh.
            targets: objects of the batch.
            batch_data_samples: tell the sizes of images and input.
            output: of the transformer; tells the cells of every level and which of them are padding.
            match_loss: scores.
        """
        sizes, input_size = image_sizes(batch_data_samples)
        sizes = upload(sizes, boxes.device)
        padding = torch.zeros_like(boxes[..., 0], dtype=torch.bool) if output.mask is None else ~output.mask
        of_levels = padding.split([rows * columns for rows, columns in output.grid_sizes], dim=1)
        objects = torch.cat(
            [
                self.assign(targets, sizes, input_size, grid_size, level)
                for grid_size, level in zip(output.grid_sizes, of_levels, strict=True)
            ],
            dim=1,
        )
        no_object = logits.shape[-1] - (not match_loss.use_sigmoid)
        # An object more, for the cells that have none.
        labels = F.pad(targets.labels, (0, 1), value=no_object).gather(1, objects)
        goal = F.pad(targets.boxes, (0, 0, 0, 1)).gather(1, objects[..., None].expand(-1, -1, 4))
        losses = match_loss.assigned(logits[None], boxes[None], labels, goal, ignored=padding)
        return [weight * loss for weight, loss in zip(self.loss_weights, losses.sum(1), strict=True)]

    @torch.no_grad()
    def assign(self, targets: Targets, sizes: Tensor, input_size: Size, grid_size: Size, padding: Tensor) -> Tensor:
        """Assign objects to the cells of a level.

        Args:
            targets: objects of the batch.
            sizes: (h, w) of every image in pixels, (B, 2).
            input_size: (H, W) of the padded input in pixels.
            grid_size: (rows, columns) of the level.
            padding: bool (B, S), True on cells of the padding.

        Returns:
            Index of the object of every cell, int64 (B, S), T where there is none.
        """
        assigned, distance = targets.valid[:, None], torch.zeros((), device=padding.device)
        for axis in range(2):  # Boxes are xywh, sizes are hw.
            stride = input_size[axis] / grid_size[axis]
            cell = (torch.arange(grid_size[axis], device=padding.device) + 0.5) * stride
            cell = cell.repeat_interleave(grid_size[1]) if axis == 0 else cell.repeat(grid_size[0])  # (S,)
            center, side = (targets.boxes[..., [1 - axis, 3 - axis]].float() * sizes[:, axis, None, None]).unbind(-1)
            offset = (cell[:, None] - center[:, None]).abs_()  # (B, S, T)
            assigned = assigned & (offset < (side / 2).clamp(max=self.radius * stride)[:, None])
            distance = distance + offset.square_()
        nearest = distance.masked_fill_(padding[..., None], torch.inf).argmin(1, keepdim=True)
        assigned = assigned.scatter(1, nearest, targets.valid[:, None]) & ~padding[..., None]
        area = targets.boxes[..., 2:].prod(-1).float()[:, None].expand_as(assigned).masked_fill(~assigned, torch.inf)
        # The largest area stands for no object, behind the objects of the image.
        return F.pad(area, (0, 1), value=torch.finfo(area.dtype).max).argmin(-1)
