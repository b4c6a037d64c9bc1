"""The mask head of DETR (paper section 4.4, official ``models/segmentation.py``)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import SampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from mmengine.model import BaseModule
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from ...errors import ConfigError
from ...registry import MODELS
from ..detr_head import Detections
from ..matching.assignment import Solution
from ..padding import Size
from ..precision import at_least_float32
from ..transformer_neck import TransformerOutput
from .mask_loss import MaskLoss, matched_masks
from .panoptic import panoptic_map
from .resize import instance_masks

LOSS = {'type': 'mmdet_detr.MaskLoss'}
TEST_CFG = {'score_thr': 0.85, 'min_area': 5}
# The maps of a query sum up to 1 over all cells, where features are about 1 in each. Without this factor on initial
# weights, a training hardly sees them for hundreds of steps: their gradients are below AdamW's eps.
ATTENTION_GAIN = 100
QUERIES_AT_ONCE = 16  # in inference; at 800 x 1333 pixels each takes 20 MiB


class Shared(NamedTuple):
    """What the masks of all queries of an image have in common; computed once an image."""

    key: Tensor  # (B, S, heads, C/heads) of the cells
    mask: Tensor | None  # bool (B, S), True on cells of the image
    first: Tensor  # (B, C + heads, h, w): the part of the first convolution that reads the projected features
    adapted: list[Tensor]  # (B, width, H_i, W_i), projections of the finer levels, coarsest first
    grid_size: Size  # (h, w) of the cells


class BBoxAttention(nn.Module):
    """Attention maps of queries over the memory, softmax over heads and cells together."""

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(embed_dims, embed_dims)
        self.k_linear = nn.Linear(embed_dims, embed_dims)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Attention maps (N, heads, S).

        Args:
            hidden: of the queries, (N, C).
            key: of the cells of each query's image, (N, S, heads, C/heads), see :meth:`keys`.
            mask: bool (N, S), True on cells of the image.
        """
        query = self.q_linear(hidden).unflatten(-1, (self.num_heads, -1))
        scores = torch.einsum('nhc,nshc->nhs', query * query.shape[-1] ** -0.5, key)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        return scores.flatten(1).softmax(-1).view_as(scores)

    def keys(self, memory: Tensor) -> Tensor:
        return self.k_linear(memory).unflatten(-1, (self.num_heads, -1))


@MODELS.register_module()
class MaskHead(BaseModule):
    """Makes a mask of every query: its attention maps over the memory, refined by the backbone's finer levels.

    It works query by query, so that training runs it on matched queries only, and prediction on those that are kept.
    What queries share is computed once an image. Convolutions are 3 x 3 with GroupNorm and ReLU; after the first two,
    each finer level halves the width.

    Args:
        in_channels: channels of the backbone's levels that are finer than the transformer's, finest first.
        embed_dims: C of the transformer.
        num_heads: attention maps of a query; the official head has those of the transformer.
        num_things_classes: classes below this one are things, the others stuff. None: all are things (instance
            segmentation), and there is no panoptic map.
        groups: of GroupNorm; where they do not divide a width, their greatest common divisor with it.
        loss: a :class:`MaskLoss`.
        test_cfg: ``score_thr`` (default 0.85) and ``min_area`` in pixels of the original image (default 5) of a segment
            in the panoptic map; no other key.
        init_cfg: as in mmengine.

    Raises:
        ConfigError: ``embed_dims`` is no multiple of ``num_heads``, or too small for so many levels;
            ``num_things_classes`` is negative; ``groups`` is below 1; or ``test_cfg`` has another key.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 512, 1024),
        embed_dims: int = 256,
        num_heads: int = 8,
        num_things_classes: int | None = 80,
        groups: int = 8,
        loss: ConfigType = LOSS,
        test_cfg: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if isinstance(in_channels, int):
            raise ConfigError(
                f'MaskHead(in_channels={in_channels}) is one number: give a list, with one for each level'
            )
        self.in_channels = tuple(in_channels)
        self.num_things_classes = num_things_classes
        self.test_cfg = {**TEST_CFG, **(test_cfg or {})}
        unknown = sorted(self.test_cfg.keys() - TEST_CFG.keys())
        if unknown:
            raise ConfigError(f'test_cfg of MaskHead has {", ".join(TEST_CFG)}, and not {", ".join(unknown)}')
        if groups < 1:
            raise ConfigError(f'MaskHead(groups={groups}) needs at least one group for its GroupNorm')
        if num_things_classes is not None and num_things_classes < 0:
            raise ConfigError(f'MaskHead(num_things_classes={num_things_classes}) is no number of classes')
        widths = [embed_dims // 2 ** (level + 1) for level in range(len(self.in_channels) + 1)]
        if embed_dims % num_heads or not widths[-1]:
            raise ConfigError(
                f'MaskHead needs embed_dims that are a multiple of num_heads={num_heads} and at least '
                f'{2 ** len(widths)} for {len(self.in_channels)} levels, got {embed_dims}'
            )
        self.bbox_attention = BBoxAttention(embed_dims, num_heads)
        whole = embed_dims + num_heads
        inputs, outputs = [whole, whole, *widths], [whole, *widths]
        for i, (before, after) in enumerate(zip(inputs, outputs, strict=False), start=1):
            self.add_module(f'lay{i}', nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f'gn{i}', nn.GroupNorm(math.gcd(groups, after), after))
        self.out_lay = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for i, (channels, width) in enumerate(zip(self.in_channels[::-1], widths, strict=False), start=1):
            self.add_module(f'adapter{i}', nn.Conv2d(channels, width, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self._conv(1).weight[:, -num_heads:] *= ATTENTION_GAIN
        self.mask_loss: MaskLoss = MMDET_MODELS.build(loss)

    def share(self, feats: Sequence[Tensor], output: TransformerOutput) -> Shared:
        """Compute what the masks of a batch have in common.

        Args:
            feats: feature maps of the backbone (B, C', H, W), finest first.
            output: of the transformer, which reads a coarser level.

        Raises:
            ConfigError: the transformer reads several levels or has another width than ``embed_dims``, or the feature
                maps are others than ``in_channels``.
        """
        if len(output.grid_sizes) > 1:
            raise ConfigError(f'MaskHead needs a transformer that reads one level, not {len(output.grid_sizes)}')
        width = self.bbox_attention.q_linear.in_features
        if output.source.shape[-1] != width:
            raise ConfigError(f'MaskHead(embed_dims={width}) has a transformer of width {output.source.shape[-1]}')
        finer = feats[: len(self.in_channels)]
        if tuple(x.shape[1] for x in finer) != self.in_channels:
            got = [x.shape[1] for x in feats]
            raise ConfigError(
                f'MaskHead(in_channels={self.in_channels}) reads the first feature maps, got {got} channels: set '
                'out_indices of the backbone'
            )
        source = output.source.transpose(1, 2).unflatten(2, output.grid_sizes[0])
        conv = self._conv(1)
        first = F.conv2d(source, conv.weight[:, : source.shape[1]], conv.bias, padding=1)
        adapted = [getattr(self, f'adapter{i}')(x) for i, x in enumerate(finer[::-1], start=1)]
        return Shared(self.bbox_attention.keys(output.memory), output.mask, first, adapted, output.grid_sizes[0])

    def forward(self, shared: Shared, hidden: Tensor, images: Tensor) -> Tensor:
        """Mask logits (N, H, W) of queries, at the size of the finest level.

        Args:
            shared: of the batch.
            hidden: hidden states of the last decoder layer, (N, C).
            images: of the queries, int64 (N,) on their device.
        """
        mask = None if shared.mask is None else shared.mask[images]
        attention = self.bbox_attention(hidden, shared.key[images], mask)
        own = self._conv(1).weight[:, -attention.shape[1] :]
        x = F.conv2d(attention.unflatten(2, shared.grid_size), own, padding=1)
        x = F.relu(self._norm(1)(x + shared.first[images]))
        x = self._layer(2, x)
        for i, adapted in enumerate(shared.adapted, start=3):
            x = F.interpolate(x, size=adapted.shape[2:]) + adapted[images]
            x = self._layer(i, x)
        return self.out_lay(x).squeeze(1)

    def _conv(self, i: int) -> nn.Conv2d:
        return getattr(self, f'lay{i}')

    def _norm(self, i: int) -> nn.GroupNorm:
        return getattr(self, f'gn{i}')

    def _layer(self, i: int, x: Tensor) -> Tensor:
        return F.relu(self._norm(i)(self._conv(i)(x)))

    def all_queries(self, feats: Sequence[Tensor], output: TransformerOutput) -> Tensor:
        """Mask logits (B, Q, H, W) of all queries."""
        hidden = output.hidden[-1]
        batch, queries = output.source.shape[0], hidden.shape[1]  # torch.onnx takes others for constants
        images = torch.arange(batch, device=hidden.device)[:, None].expand(-1, queries).flatten()
        return self(self.share(feats, output), hidden.flatten(0, 1), images).unflatten(0, (batch, queries))

    def loss(
        self, feats: Sequence[Tensor], output: TransformerOutput, matches: Solution, batch_data_samples: SampleList
    ) -> dict[str, Tensor]:
        """``loss_mask`` and ``loss_dice`` of the matched queries of the last decoder layer, see :class:`MaskLoss`.

        Args:
            feats: feature maps of the backbone.
            output: of the transformer.
            matches: of queries and objects, of all decoder layers.
            batch_data_samples: with ``gt_instances.masks`` (``BitmapMasks``) in the size of each image.
        """
        matched = matched_masks(output.hidden, matches, batch_data_samples)
        return self.mask_loss(self(self.share(feats, output), matched.hidden, matched.images), matched)

    def queries(self, shared: Shared, hidden: Tensor, image: int, queries: Tensor) -> Tensor:
        """Mask logits (N, H, W) of some queries (N,) of an image, a few at a time."""
        return torch.cat(
            [
                self(shared, hidden[image, part], part.new_full(part.shape, image))
                for part in queries.split(QUERIES_AT_ONCE)
            ]
        )

    def predict(
        self,
        feats: Sequence[Tensor],
        output: TransformerOutput,
        detections: Detections,
        batch_data_samples: SampleList,
        rescale: bool = True,
    ) -> tuple[list[InstanceData], list[PixelData] | None]:
        """Masks of the detected things, and a panoptic map of every image.

        Args:
            feats: feature maps of the backbone.
            output: of the transformer.
            detections: of the batch.
            batch_data_samples: as for :meth:`DETRHead.predict`, and with ``batch_input_shape``.
            rescale: masks in the size of the original image, else of the image in the network's input.

        Returns:
            The detections of things, with bool ``masks`` (N, h, w) in place of ``queries``; and for each image
            ``sem_seg`` (1, h, w), see :func:`panoptic_map`, or None where all classes are things.
        """
        shared, hidden = self.share(feats, output), output.hidden[-1]
        num_classes = detections.num_classes
        num_things = num_classes if self.num_things_classes is None else self.num_things_classes
        certain = (detections.labels < num_classes) & (detections.scores > self.test_cfg['score_thr'])
        things, maps = [], []
        for image, (result, sample) in enumerate(zip(detections.results, batch_data_samples, strict=True)):
            result = result[result.labels < num_things]
            size = tuple(sample.ori_shape[:2] if rescale else sample.img_shape[:2])
            sizes = (tuple(sample.batch_input_shape), tuple(sample.img_shape[:2]), size)
            segments = certain[image].nonzero().squeeze(1)
            needed, index = torch.cat((result.queries, segments)).unique(return_inverse=True)
            masks = at_least_float32(self.queries(shared, hidden, image, needed))
            of_things, of_segments = index.split([len(result), len(segments)])
            del result.queries
            result.masks = instance_masks(masks[of_things], *sizes)
            things.append(result)
            if num_things < num_classes:
                labels = detections.labels[image, segments]
                area = self.test_cfg['min_area']
                sem_seg = panoptic_map(masks[of_segments], labels, num_things, num_classes, area, *sizes)
                maps.append(PixelData(sem_seg=sem_seg[None]))
        return things, maps or None
