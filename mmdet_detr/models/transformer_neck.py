"""Everything between the feature map and the hidden states of the queries."""

from collections.abc import Sequence

from mmdet.structures import OptSampleList
from mmdet.utils import OptMultiConfig
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..registry import MODELS
from .padding import attention_mask, image_cells
from .position_encoding import sine_position_encoding
from .transformer import Decoder, Encoder


@MODELS.register_module()
class TransformerNeck(BaseModule):
    """The transformer of DETR: 1x1 projection, sine position encoding, encoder, learnt queries, decoder.

    Paper sections 3.2 and A.4; the defaults are the paper's.

    Args:
        in_channels: channels of the feature map.
        embed_dims: C, width of the transformer; a multiple of 4 and of ``num_heads``.
        num_queries: Q, the largest number of objects that one image can get.
        num_heads: heads of every attention.
        num_encoder_layers: encoder layers, 0 or more.
        num_decoder_layers: L, 1 or more.
        feedforward_channels: hidden width of the feed-forward networks.
        dropout: applied to attention weights, inside feed-forward networks and before every residual sum.
        init_cfg: as in mmengine.

    Raises:
        ValueError: ``embed_dims`` does not divide as said above, or there is no decoder layer or query.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        feedforward_channels: int = 2048,
        dropout: float = 0.1,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if embed_dims % 4 or embed_dims % num_heads:
            raise ValueError(f'embed_dims must be a multiple of 4 and of num_heads={num_heads}, got {embed_dims}')
        if num_decoder_layers < 1 or num_queries < 1:
            raise ValueError(f'need a decoder layer and a query, got {num_decoder_layers=} and {num_queries=}')
        self.embed_dims = embed_dims
        self.input_proj = nn.Conv2d(in_channels, embed_dims, kernel_size=1)
        self.query_embed = nn.Embedding(num_queries, embed_dims)
        layer_args = (embed_dims, num_heads, feedforward_channels, dropout)
        self.encoder = Encoder(num_encoder_layers, *layer_args)
        self.decoder = Decoder(num_decoder_layers, *layer_args)
        for transformer in (self.encoder, self.decoder):
            for parameter in transformer.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, feats: Sequence[Tensor], batch_data_samples: OptSampleList = None) -> Tensor:
        """Turn feature maps into hidden states.

        Args:
            feats: feature maps (B, C', H, W) of one or several levels; the last one is read.
            batch_data_samples: tell the padding of each image by ``img_shape`` and ``batch_input_shape``;
                without them no image is padded.

        Returns:
            Hidden states (L, B, Q, C) of all decoder layers.
        """
        x = self.input_proj(feats[-1])
        feature_size = (x.shape[2], x.shape[3])
        cells = image_cells(batch_data_samples, feature_size)
        mask = None if cells is None else attention_mask(cells, feature_size, x.device)
        pos = sine_position_encoding(cells, feature_size, self.embed_dims, x.device, x.dtype)
        memory = self.encoder(x.flatten(2).transpose(1, 2), pos, mask)
        query_pos = self.query_embed.weight.expand(len(x), -1, -1)
        return self.decoder(query_pos, memory, pos, mask)
