"""Everything between the feature map and the hidden states of the queries."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.structures import OptSampleList
from mmdet.utils import OptMultiConfig
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..errors import ConfigError
from ..log import warn
from ..registry import MODELS
from .matching.targets import upload
from .padding import PaddedSizes, Size, cell_mask, image_cells, image_sizes, is_traced
from .position_encoding import sine_position_encoding
from .queries import LearntQueries, QuerySets, split_sets
from .transformer import Decoder, Encoder

TRACED = 'trace a DETR by model(images, sizes), with the unpadded (height, width) of each image as a tensor (B, 2)'
COARSE_STRIDE = 64  # pixels a cell; most objects of a photograph are smaller than such a cell


class TransformerOutput(NamedTuple):
    """What the transformer knows of a batch; S cells of all levels, row by row, one level after another."""

    hidden: Tensor  # (L, B, Q, C), hidden states of the queries after every decoder layer
    source: Tensor  # (B, S, C), projected features: the encoder's input without the position encoding
    memory: Tensor  # (B, S, C), the encoder's output
    mask: Tensor | None  # bool (B, S), True on cells of the image; None where no cell is padding
    grid_sizes: list[Size]  # (rows, columns) of every level
    training_hidden: Sequence[Tensor] = ()  # (L, B, G, Q, C) for every entry of the training sets


@MODELS.register_module()
class TransformerNeck(BaseModule):
    """The transformer of DETR: 1x1 projection, sine position encoding, encoder, learnt queries, decoder.

    Paper sections 3.2 and A.4; the defaults are the paper's. Beyond the paper, it reads several levels as one sequence
    of cells: each level has a projection of its own, and a learnt embedding of the level is added to its position
    encoding, as in Deformable DETR (arXiv 2010.04159, section 4.1).

    Args:
        in_channels: channels of the feature map, or of each level that is read.
        embed_dims: C, width of the transformer; a multiple of 4 and of ``num_heads``.
        num_queries: Q, the largest number of objects that one image can get.
        num_heads: heads of every attention.
        num_encoder_layers: encoder layers, 0 or more.
        num_decoder_layers: L, 1 or more.
        feedforward_channels: hidden width of the feed-forward networks.
        dropout: applied to attention weights, inside feed-forward networks and before every residual sum.
        levels: index of the feature map to read, or indices of several; negative ones count from the last.
        input_norm: normalise each projected cell over its channels (LayerNorm). For feature maps that come without a
            norm, such as those of an FPN; the official DETR reads a normalised backbone and has none.
        with_cp: keep only the inputs of every layer, and compute the layers again in the backward pass: less memory,
            more time. The backbone has an option of this name too.
        compile: run encoder and decoder as graphs of ``torch.compile``, True or a dict of its arguments. Image sizes
            and batch sizes are dynamic, and each is compiled for batches with and without padding. A copy of the model
            (averaged weights, a whole model in a file) runs without it. Needs PyTorch 2.4. Not measured on a GPU yet
            (``benchmarks/cuda.py`` does that); slower on a CPU in training.
        init_cfg: as in mmengine.

    Raises:
        ConfigError: ``embed_dims`` does not divide as said above; there is no decoder layer, query or level;
            ``in_channels`` and ``levels`` do not belong together; or this PyTorch is too old for ``compile``.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        embed_dims: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        feedforward_channels: int = 2048,
        dropout: float = 0.1,
        levels: int | Sequence[int] = -1,
        input_norm: bool = False,
        with_cp: bool = False,
        compile: bool | dict = False,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if embed_dims % 4 or embed_dims % num_heads:
            raise ConfigError(f'embed_dims must be a multiple of 4 and of num_heads={num_heads}, got {embed_dims}')
        if num_decoder_layers < 1 or num_queries < 1:
            raise ConfigError(f'need a decoder layer and a query, got {num_decoder_layers=} and {num_queries=}')
        self.embed_dims = embed_dims
        self._looked_at_stride = False
        self.levels = (levels,) if isinstance(levels, int) else tuple(levels)
        if not all(isinstance(level, int) for level in self.levels) or len(set(self.levels)) < len(self.levels):
            raise ConfigError(f'levels must be different indices of feature maps, got {levels!r}')
        widths = [in_channels] * len(self.levels) if isinstance(in_channels, int) else list(in_channels)
        if not self.levels or len(widths) != len(self.levels):
            raise ConfigError(f'need in_channels of every level that is read, got {in_channels=} and {levels=}')
        projections = [nn.Conv2d(width, embed_dims, kernel_size=1) for width in widths]
        if len(self.levels) == 1:
            self.input_proj: nn.Module = projections[0]
        else:
            self.input_proj = nn.ModuleList(projections)
            self.level_embed = nn.Embedding(len(self.levels), embed_dims)
        self.input_norm = nn.ModuleList(nn.LayerNorm(embed_dims) if input_norm else nn.Identity() for _ in self.levels)
        self.query_embed = LearntQueries(num_queries, embed_dims)
        layer_args = (embed_dims, num_heads, feedforward_channels, dropout, with_cp)
        self.encoder = Encoder(num_encoder_layers, *layer_args)
        self.decoder = Decoder(num_decoder_layers, *layer_args)
        if compile:
            if not hasattr(torch.compiler, 'is_compiling'):
                raise ConfigError(f'TransformerNeck(compile=...) needs PyTorch 2.4 or newer, not {torch.__version__}')
            options = {'dynamic': True, **(compile if isinstance(compile, dict) else {})}
            self.encoder.compile(**options)
            self.decoder.compile(**options)
        for transformer in (self.encoder, self.decoder):
            for parameter in transformer.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        feats: Sequence[Tensor],
        batch_data_samples: OptSampleList | PaddedSizes = None,
        training_sets: Sequence[QuerySets] = (),
    ) -> TransformerOutput:
        """Turn feature maps into hidden states.

        Args:
            feats: feature maps (B, C', H, W) of one or several levels; those of ``levels`` are read.
            batch_data_samples: tell the padding of each image by ``img_shape`` and ``batch_input_shape``, or are
                its sizes. Only inference goes without them; no image is padded then.
            training_sets: queries to decode beside the network's own, which do not see them.

        Raises:
            ConfigError: a level does not exist or has other channels than ``in_channels`` says; or there are no data
                samples in training, as in a list of necks of mmdet's own detectors; or the padding of data samples
                would become part of a traced model.
        """
        if self.training and batch_data_samples is None:
            raise ConfigError(
                'TransformerNeck gets no data samples and cannot know the padding: give it to DETRHead as '
                'transformer=, or put it at the end of the necks of mmdet_detr.DETR'
            )
        for width in {queries.pos.shape[-1] for queries in training_sets} - {self.embed_dims}:
            raise ConfigError(
                f'TransformerNeck(embed_dims={self.embed_dims}) got training_sets of width {width}: give the head the '
                'same embed_dims'
            )
        maps = self._project(feats)
        if isinstance(batch_data_samples, PaddedSizes):
            sizes, input_size = batch_data_samples
            cells = [image_cells(sizes, input_size, (x.shape[2], x.shape[3])) for x in maps]
            return self.transform(maps, cells, training_sets)
        if not batch_data_samples:
            return self.transform(maps, None, training_sets)
        sizes, input_size = image_sizes(batch_data_samples)
        if not self._looked_at_stride and len(feats) > 1:
            self._looked_at_stride = True
            self._warn_of_coarse_cells(feats, input_size)
        if (sizes == sizes.new_tensor(input_size)).all():
            return self.transform(maps, None, training_sets)
        if is_traced():
            raise ConfigError(f'{TRACED}: the padding of data samples would become a constant of the traced model')
        cells = [image_cells(sizes, input_size, (x.shape[2], x.shape[3])) for x in maps]  # on the host
        padded = any((c != c.new_tensor(x.shape[2:])).any() for c, x in zip(cells, maps, strict=True))
        return self.transform(maps, [upload(c, maps[0].device) for c in cells] if padded else None, training_sets)

    def transform(
        self, maps: Sequence[Tensor], cells: Sequence[Tensor] | None, training_sets: Sequence[QuerySets] = ()
    ) -> TransformerOutput:
        """Encode and decode projected feature maps; nothing here depends on values of the host.

        Args:
            maps: (B, C, H, W) of every level.
            cells: (rows, columns) of each image in every level, (B, 2) on the device of the maps, see
                :func:`image_cells`; None where no level shows padding.
            training_sets: as in :meth:`forward`.
        """
        grid_sizes = [(x.shape[2], x.shape[3]) for x in maps]
        cells_of = [None] * len(maps) if cells is None else cells
        pos = [
            sine_position_encoding(c, size, self.embed_dims, maps[0].device, maps[0].dtype)
            for c, size in zip(cells_of, grid_sizes, strict=True)
        ]
        if len(maps) > 1:
            pos = [p + embedding for p, embedding in zip(pos, self.level_embed.weight, strict=True)]
        all_pos = torch.cat(pos, dim=1)
        source = torch.cat(
            [norm(x.flatten(2).transpose(1, 2)) for x, norm in zip(maps, self.input_norm, strict=True)], dim=1
        )
        mask = None
        if cells is not None:
            mask = torch.cat([cell_mask(c, size) for c, size in zip(cells, grid_sizes, strict=True)], dim=1)
        memory = self.encoder(source, all_pos, mask)
        sets = [self.query_embed(source.shape[0]), *training_sets]
        own, *others = split_sets(self.decoder(sets, memory, all_pos, mask), sets)
        return TransformerOutput(own.squeeze(2), source, memory, mask, grid_sizes, others)

    def _project(self, feats: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """Maps (B, C, H, W) of the levels that are read."""
        if isinstance(feats, Tensor):
            raise ConfigError(
                f'TransformerNeck reads a sequence of feature maps, got a tensor {tuple(feats.shape)}, as from another '
                'transformer or for a RoI head'
            )
        projections = [self.input_proj] if len(self.levels) == 1 else self.input_proj
        maps = []
        for level, projection in zip(self.levels, projections, strict=True):  # type: ignore[arg-type]
            if not -len(feats) <= level < len(feats):
                raise ConfigError(f'TransformerNeck(levels={level}): there are {len(feats)} feature maps, from 0 on')
            channels, expected = feats[level].shape[1], projection.in_channels
            if channels != expected:
                raise ConfigError(
                    f'TransformerNeck(in_channels={expected}): feature map {level} of {len(feats)} has {channels} '
                    'channels'
                )
            maps.append(projection(feats[level]))
        return maps

    def _warn_of_coarse_cells(self, feats: Sequence[Tensor], input_size: Size) -> None:
        """The default level is the last one; the last level of a feature pyramid is too coarse for most objects."""
        strides = [round(max(input_size) / max(map(int, x.shape[2:]))) for x in feats]  # a tracer's sizes are tensors
        finest = min(strides[level] for level in self.levels)
        if finest >= COARSE_STRIDE and min(strides) < finest:
            warn(
                f'TransformerNeck(levels={self.levels}) reads cells of {finest} pixels, and most objects are smaller: '
                f'the feature maps 0 to {len(feats) - 1} have strides {", ".join(map(str, strides))}.'
            )
