"""Masks in the official order of work: all queries at full size, one image and one pixel rule after another."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn


class PlainMaskHead(nn.Module):
    """Attention maps and convolutions of all queries, with the official names (paper section 4.4)."""

    def __init__(self, in_channels: tuple[int, ...], embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.bbox_attention = nn.Module()
        self.bbox_attention.q_linear = nn.Linear(embed_dims, embed_dims)
        self.bbox_attention.k_linear = nn.Linear(embed_dims, embed_dims)
        c, whole = embed_dims, embed_dims + num_heads
        for i, (before, after) in enumerate(
            [(whole, whole), (whole, c // 2), (c // 2, c // 4), (c // 4, c // 8), (c // 8, c // 16)], start=1
        ):
            setattr(self, f'lay{i}', nn.Conv2d(before, after, 3, padding=1))
            setattr(self, f'gn{i}', nn.GroupNorm(8, after))
        for i, (before, after) in enumerate(zip(in_channels[::-1], (c // 2, c // 4, c // 8), strict=True), start=1):
            setattr(self, f'adapter{i}', nn.Conv2d(before, after, 1))
        self.out_lay = nn.Conv2d(c // 16, 1, 3, padding=1)

    def forward(self, source: Tensor, memory: Tensor, hidden: Tensor, padding: Tensor, finer: list[Tensor]) -> Tensor:
        """Logits (B, Q, H, W) of source and memory (B, C, h, w), hidden (B, Q, C) and padding (B, h, w)."""
        b, num_queries, c = hidden.shape
        h, w = source.shape[2:]
        query = self.bbox_attention.q_linear(hidden).view(b, num_queries, self.num_heads, -1)
        weight = self.bbox_attention.k_linear.weight[..., None, None]
        key = F.conv2d(memory, weight, self.bbox_attention.k_linear.bias).view(b, self.num_heads, -1, h, w)
        scores = torch.einsum('bqnc,bnchw->bqnhw', query * (c / self.num_heads) ** -0.5, key)
        scores = scores.masked_fill(padding[:, None, None], -torch.inf)
        attention = scores.flatten(2).softmax(-1).view_as(scores)

        def per_query(x: Tensor) -> Tensor:
            return x.repeat_interleave(num_queries, 0)

        x = torch.cat((per_query(source), attention.flatten(0, 1)), 1)
        x = F.relu(self.gn1(self.lay1(x)))
        x = F.relu(self.gn2(self.lay2(x)))
        for i, level in enumerate(finer[::-1], start=1):
            adapted = per_query(getattr(self, f'adapter{i}')(level))
            x = adapted + F.interpolate(x, size=adapted.shape[-2:], mode='nearest')
            x = F.relu(getattr(self, f'gn{i + 2}')(getattr(self, f'lay{i + 2}')(x)))
        return self.out_lay(x).view(b, num_queries, *finer[0].shape[-2:])


def plain_mask_losses(logits: Tensor, masks: list[Tensor], size: tuple[int, int], num_boxes: float) -> dict:
    """Focal and dice loss of matched logits (N, H, W), with the masks (N_i, h, w) of all images in the same order."""
    target = torch.cat([F.pad(m.double(), (0, size[1] - m.shape[2], 0, size[0] - m.shape[1])) for m in masks])
    x = F.interpolate(logits[:, None], size=size, mode='bilinear', align_corners=False).flatten(1)
    target = target.flatten(1).to(x)
    p = x.sigmoid()
    of_truth = p * target + (1 - p) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    focal = (alpha * (1 - of_truth) ** 2 * F.binary_cross_entropy_with_logits(x, target, reduction='none')).mean(1)
    dice = 1 - (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)
    return {'loss_mask': focal.sum() / num_boxes, 'loss_dice': dice.sum() / num_boxes}


@dataclass
class Sizes:
    padded: tuple[int, int]
    image: tuple[int, int]
    original: tuple[int, int]


def plain_instance_masks(logits: Tensor, sizes: Sizes) -> Tensor:
    at_input = F.interpolate(logits[:, None].float(), size=sizes.padded, mode='bilinear', align_corners=False)
    binary = at_input.sigmoid() > 0.5
    cut = binary[:, :, : sizes.image[0], : sizes.image[1]]
    return F.interpolate(cut.float(), size=sizes.original, mode='nearest')[:, 0].bool()


def plain_panoptic(
    logits: Tensor, scores: Tensor, labels: Tensor, things: set[int], sizes: Sizes, threshold: float = 0.85
) -> tuple[np.ndarray, list[dict]]:
    """The map of ids (h, w) and the segments of an image, pixel rule by pixel rule."""
    keep = scores > threshold
    labels = labels[keep].tolist()
    at_input = F.interpolate(logits[keep][:, None], size=sizes.padded, mode='bilinear', align_corners=False)[:, 0]
    masks = at_input[:, : sizes.image[0], : sizes.image[1]]

    def ids_and_areas(masks: Tensor, labels: list[int], merge: bool) -> tuple[np.ndarray, list[int]]:
        ids = masks.softmax(0).argmax(0)
        if merge:
            first: dict[int, int] = {}
            for i, label in enumerate(labels):
                if label not in things:
                    ids[ids == i] = first.setdefault(label, i)
        image = Image.fromarray(ids.numpy().astype(np.uint8)).resize(sizes.original[::-1], Image.Resampling.NEAREST)
        ids = np.array(image)
        return ids, [int((ids == i).sum()) for i in range(len(labels))]

    if not labels:
        return np.zeros(sizes.original, int), []
    ids, areas = ids_and_areas(masks, labels, merge=True)
    while labels:
        large = [area > 4 for area in areas]
        if all(large):
            break
        masks = masks[torch.tensor(large)]
        labels = [label for label, is_large in zip(labels, large, strict=True) if is_large]
        if labels:
            ids, areas = ids_and_areas(masks, labels, merge=False)
    return ids, [
        {'id': i, 'label': label, 'isthing': label in things, 'area': areas[i]} for i, label in enumerate(labels)
    ]
