"""DETRs of other implementations, with random weights: the real classes where they can be installed."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from helpers import mmdet_config, tiny_detr_config
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor, nn

Forward = Callable[[Tensor, list[DetDataSample]], tuple[Tensor, Tensor]]
NUM_CLASSES = 5


@dataclass(frozen=True)
class Sizes:
    """Sizes of a DETR; the defaults are those of ``helpers.tiny_detr_config``."""

    depth: int = 18
    base_channels: int = 8
    width: int = 32
    heads: int = 4
    hidden: int = 48
    encoder: int = 2
    decoder: int = 3
    queries: int = 12
    num_classes: int = NUM_CLASSES
    dilated: bool = False

    @property
    def channels(self) -> list[int]:
        """Channels of the backbone's stages."""
        return [self.base_channels * (1 if self.depth == 18 else 4) * 2**stage for stage in range(4)]

    @property
    def config(self) -> Config:
        """Our model of these sizes."""
        config = tiny_detr_config(
            self.num_classes,
            in_channels=self.channels[-1],
            embed_dims=self.width,
            num_heads=self.heads,
            feedforward_channels=self.hidden,
            num_encoder_layers=self.encoder,
            num_decoder_layers=self.decoder,
            num_queries=self.queries,
        )
        config.backbone.update(depth=self.depth, base_channels=self.base_channels)
        if self.dilated:
            config.backbone.type = 'mmdet_detr.ResNetDC5'
        config.bbox_head.embed_dims = self.width
        return config

    @property
    def mask_head(self) -> dict:
        """Our mask head on a backbone that gives all of its stages."""
        return {
            'type': 'mmdet_detr.MaskHead',
            'in_channels': self.channels[:3],
            'embed_dims': self.width,
            'num_heads': self.heads,
        }


TINY = Sizes()
R50 = Sizes(50, 64, 256, 8, 2048, 6, 6, 100, 91)
# For the mask head of transformers, width and heads together are a multiple of 8.
PANOPTIC = replace(TINY, width=64, heads=8, num_classes=250)


@dataclass
class Foreign:
    """A state dict in another implementation's names, and what that implementation computes with it.

    ``forward`` gives logits (B, Q, K+1) and boxes (B, Q, 4) of the last layer.
    """

    state_dict: dict[str, Tensor]
    forward: Forward
    model: nn.Module


def randomise(model: nn.Module) -> nn.Module:
    """Random values everywhere, in the size that training leaves, so that nothing swapped goes unseen."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if not value.is_floating_point():
            continue
        if 'running_var' in name:
            value.data.uniform_(0.5, 1.5)
        elif value.dim() > 1:
            value.data.normal_(0, 1.4 / math.sqrt(value[0].numel()))
        else:
            value.data.normal_(1.0 if name.endswith('weight') else 0.0, 0.1)
    return model.eval()


def pixel_mask(images: Tensor, samples: list[DetDataSample]) -> Tensor:
    """True on the pixels (B, H, W) that belong to an image."""
    mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
    for row, sample in zip(mask, samples, strict=True):
        row[: sample.img_shape[0], : sample.img_shape[1]] = True
    return mask


class OfficialLayer(nn.Module):
    """Encoder or decoder layer under the official names, on PyTorch's own attention."""

    def __init__(self, width: int, heads: int, hidden: int, decodes: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if decodes:
            self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
            self.norm3 = nn.LayerNorm(width)

    def encode(self, x: Tensor, pos: Tensor, padded: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x + pos, x + pos, x, key_padding_mask=padded)[0])
        return self.norm2(x + self.linear2(self.linear1(x).relu()))

    def decode(self, x: Tensor, query: Tensor, memory: Tensor, pos: Tensor, padded: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x + query, x + query, x)[0])
        x = self.norm2(x + self.multihead_attn(x + query, memory + pos, memory, key_padding_mask=padded)[0])
        return self.norm3(x + self.linear2(self.linear1(x).relu()))


class OfficialDETR(nn.Module):
    """The official network, written from the paper's appendix under the official parameter names."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        body = nn.Module()
        last = {'strides': (1, 2, 2, 1), 'dilations': (1, 1, 1, 2)} if sizes.dilated else {}
        body.body = ResNet(depth=sizes.depth, base_channels=sizes.base_channels, out_indices=(3,), **last)
        if sizes.dilated:  # torchvision's rule: the first block of the stage does not dilate yet
            conv = body.body.layer4[0].conv2
            conv.dilation = conv.padding = (1, 1)
        self.backbone = nn.ModuleList([body])
        self.input_proj = nn.Conv2d(sizes.channels[-1], sizes.width, 1)
        self.query_embed = nn.Embedding(sizes.queries, sizes.width)
        self.transformer = nn.Module()
        for part, layers in (('encoder', sizes.encoder), ('decoder', sizes.decoder)):
            stack = nn.Module()
            stack.layers = nn.ModuleList(
                OfficialLayer(sizes.width, sizes.heads, sizes.hidden, part == 'decoder') for _ in range(layers)
            )
            setattr(self.transformer, part, stack)
        self.transformer.decoder.norm = nn.LayerNorm(sizes.width)
        self.class_embed = nn.Linear(sizes.width, sizes.num_classes + 1)
        self.bbox_embed = nn.Module()
        self.bbox_embed.layers = nn.ModuleList(nn.Linear(sizes.width, out) for out in (sizes.width, sizes.width, 4))

    def forward(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.backbone[0].body(images)[-1]
        valid = F.interpolate(mask[:, None].float(), feats.shape[2:])[:, 0] > 0
        pos = self.positions(valid, self.query_embed.weight.shape[1]).flatten(2).transpose(1, 2)
        padded = ~valid.flatten(1)
        x = self.input_proj(feats).flatten(2).transpose(1, 2)
        for layer in self.transformer.encoder.layers:
            x = layer.encode(x, pos, padded)
        query = self.query_embed.weight.expand(len(x), -1, -1)
        y = torch.zeros_like(query)
        for layer in self.transformer.decoder.layers:
            y = layer.decode(y, query, x, pos, padded)
        y = self.transformer.decoder.norm(y)
        box = y
        for layer in self.bbox_embed.layers[:-1]:
            box = layer(box).relu()
        return self.class_embed(y), self.bbox_embed.layers[-1](box).sigmoid()

    @staticmethod
    def positions(valid: Tensor, width: int) -> Tensor:
        """Sine codes (B, C, H, W): the row in the first half of the channels, the column in the second."""
        halves = []
        for dim in (1, 2):
            place = valid.float().cumsum(dim)
            place = place / (place.narrow(dim, -1, 1) + 1e-6) * 2 * math.pi
            wave = 10000 ** (torch.arange(0, width // 2, 2) / (width // 2))
            angle = place[..., None] / wave
            halves.append(torch.stack((angle.sin(), angle.cos()), -1).flatten(-2).permute(0, 3, 1, 2))
        return torch.cat(halves, 1)


def official(sizes: Sizes = TINY) -> Foreign:
    model = randomise(OfficialDETR(sizes))
    state_dict = {name: v for name, v in model.state_dict().items() if 'num_batches_tracked' not in name}
    return Foreign(state_dict, lambda images, samples: model(images, pixel_mask(images, samples)), model)


def mask_head(sizes: Sizes) -> nn.Module:
    """Our mask head with random weights."""
    return randomise(MODELS.build(sizes.mask_head))


def official_panoptic(sizes: Sizes = TINY) -> Foreign:
    """Under ``detr.``, beside a mask head and its attention."""
    detector = official(sizes)
    weights = {f'detr.{name}': value for name, value in detector.state_dict.items()}
    for name, value in mask_head(sizes).state_dict().items():
        weights[name if name.startswith('bbox_attention.') else f'mask_head.{name}'] = value
    return Foreign(weights, detector.forward, detector.model)


def mmdet3(sizes: Sizes = TINY) -> Foreign:
    model = randomise(MODELS.build(mmdet_config(sizes.config)))

    def forward(images: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, Tensor]:
        hidden = model.forward_transformer(model.extract_feat(images), samples)['hidden_states']
        logits, boxes = model.bbox_head(hidden)
        return logits[-1], boxes[-1]

    return Foreign(dict(model.state_dict()), forward, model)


def _renamed(foreign: Foreign, rules: dict[str, str]) -> Foreign:
    def rename(name: str) -> str:
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        return name

    return Foreign({rename(name): value for name, value in foreign.state_dict.items()}, foreign.forward, foreign.model)


# mmdet 2.x put the transformer into the head; the names are those of the classes in its wheels 2.11, 2.12 and 2.28
MMDET2 = {
    r'^neck\.convs\.0\.conv': 'bbox_head.input_proj',
    r'^query_embedding': 'bbox_head.query_embedding',
    r'^(encoder|decoder)\.': r'bbox_head.transformer.\1.',
}


def mmdet2_12(sizes: Sizes = TINY) -> Foreign:
    layer = {r'\.self_attn\.': '.attentions.0.', r'\.cross_attn\.': '.attentions.1.', r'\.ffn\.': '.ffns.0.'}
    return _renamed(mmdet3(sizes), MMDET2 | layer)


def mmdet2_7(sizes: Sizes = TINY) -> Foreign:
    layer = {r'\.cross_attn\.': '.multihead_attn.', r'decoder\.post_norm': 'decoder.norm'}
    return _renamed(mmdet3(sizes), MMDET2 | layer)


def hf_config(sizes: Sizes = TINY):
    """Configuration of the model in transformers."""
    transformers = pytest.importorskip('transformers', minversion='5', reason='needs transformers 5')
    bottlenecks = sizes.depth > 34
    resnet = transformers.ResNetConfig(
        embedding_size=sizes.base_channels,
        hidden_sizes=sizes.channels,
        depths=[3, 4, 6, 3] if bottlenecks else [2, 2, 2, 2],
        layer_type='bottleneck' if bottlenecks else 'basic',
        out_features=['stage4'],
    )
    return transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=resnet,
        dropout=0.0,
        d_model=sizes.width,
        encoder_layers=sizes.encoder,
        decoder_layers=sizes.decoder,
        encoder_ffn_dim=sizes.hidden,
        decoder_ffn_dim=sizes.hidden,
        encoder_attention_heads=sizes.heads,
        decoder_attention_heads=sizes.heads,
        num_queries=sizes.queries,
        num_labels=sizes.num_classes,
    )


def hf(sizes: Sizes = TINY) -> Foreign:
    """In the names of the model in memory, which are those of transformers 5."""
    config = hf_config(sizes)
    from transformers import DetrForObjectDetection

    model = randomise(DetrForObjectDetection(config))

    def forward(images: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, Tensor]:
        out = model(pixel_values=images, pixel_mask=pixel_mask(images, samples).long())
        return out.logits, out.pred_boxes

    return Foreign(dict(model.state_dict()), forward, model)


def hf_panoptic(sizes: Sizes = PANOPTIC) -> Foreign:
    """In the names of the model in memory."""
    config = hf_config(sizes)
    config.backbone_config.out_features = ['stage1', 'stage2', 'stage3', 'stage4']
    from transformers import DetrForSegmentation

    model = randomise(DetrForSegmentation(config))

    def forward(images: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, Tensor]:
        out = model(pixel_values=images, pixel_mask=pixel_mask(images, samples).long())
        return out.logits, out.pred_boxes

    return Foreign(dict(model.state_dict()), forward, model)


# from transformers 5 to what it saves, and what transformers 4 has
HUB = {
    r'^model\.backbone\.model\.': 'model.backbone.conv_encoder.model.',
    r'\.o_proj\.': '.out_proj.',
    r'\.mlp\.fc': '.fc',
}


def hf_no_timm(sizes: Sizes = TINY) -> Foreign:
    return _renamed(hf(sizes), HUB)


def hf_timm(sizes: Sizes = TINY) -> Foreign:
    body = r'^(model\.backbone\.conv_encoder\.model\.)'
    rules = {
        body + r'embedder\.embedder\.convolution': r'\1conv1',
        body + r'embedder\.embedder\.normalization': r'\1bn1',
    }
    for stage in range(4):
        block = body + rf'encoder\.stages\.{stage}\.layers\.(\d)\.'
        for i in range(3):
            rules[block + rf'layer\.{i}\.convolution'] = rf'\1layer{stage + 1}.\2.conv{i + 1}'
            rules[block + rf'layer\.{i}\.normalization'] = rf'\1layer{stage + 1}.\2.bn{i + 1}'
        rules[block + r'shortcut\.convolution'] = rf'\1layer{stage + 1}.\2.downsample.0'
        rules[block + r'shortcut\.normalization'] = rf'\1layer{stage + 1}.\2.downsample.1'
    return _renamed(hf_no_timm(sizes), rules)


def ours(sizes: Sizes = TINY) -> Foreign:
    model = randomise(MODELS.build(sizes.config))

    def forward(images: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, Tensor]:
        logits, boxes = model(images, samples, mode='tensor')
        return logits[-1], boxes[-1]

    return Foreign(dict(model.state_dict()), forward, model)


def ours_panoptic(sizes: Sizes = TINY) -> Foreign:
    """With a mask head beside the others."""
    foreign = ours(sizes)
    foreign.model.mask_head = mask_head(sizes)
    return Foreign(dict(foreign.model.state_dict()), foreign.forward, foreign.model)


IMPLEMENTATIONS: dict[str, Callable[..., Foreign]] = {
    'facebookresearch/detr': official,
    'facebookresearch/detr, panoptic': official_panoptic,
    'Hugging Face, timm backbone': hf_timm,
    'Hugging Face, own backbone': hf_no_timm,
    'Hugging Face, names of transformers 5': hf,
    'mmdet 3.x': mmdet3,
    'mmdet 2.12 to 2.28': mmdet2_12,
    'mmdet 2.7 to 2.11': mmdet2_7,
    'mmdet_detr': ours,
}
