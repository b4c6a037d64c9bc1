"""The names that each published implementation of DETR gives to its parameters, and how they map to ours.

A layout is a list of pairs of templates, our name and theirs, which is read in both directions.
"""

import functools
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

FIELDS = {'n': r'\d+', 'p': 'weight|bias', 'part': 'encoder|decoder', 'rest': '.+'}
WRAPPERS = ('module.', '_orig_mod.', 'model.', 'ema.')  # of DataParallel, torch.compile and training frameworks
SURPLUS = {  # entries that training leaves beside the network, by pattern
    r'n_averaged|steps': 'counter of an averaged model',
    r'(module\.)?ema_.+': 'averaged copy, which mmdet 2.x swaps with the weights before it saves',
    r'criterion\..+': 'buffer of the loss',
}


@dataclass(frozen=True)
class Layout:
    """Names of one implementation.

    Attributes:
        name: what ``convert_checkpoint --to`` calls it.
        title: what the user reads.
        marks: entries by which it is recognised.
        rules: pairs (our template, their template); ``{n}`` and the like stand for :data:`FIELDS`.
        variants: pairs (pattern, replacement) that turn other spellings into this one.
        dropped: beginnings of entries that belong to no DETR detector, with the reason.
        splits_attention: whether query, key and value have matrices of their own.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    variants: tuple[tuple[str, str], ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)
    splits_attention: bool = False

    def to_ours(self, name: str) -> str | None:
        """Our name of an entry; None where the layout does not know it."""
        for ours, theirs in self.rules:
            match = re.fullmatch(_pattern(theirs), name)
            if match:
                return ours.format(**match.groupdict())
        return None

    def from_ours(self, name: str) -> str | None:
        """Their name of an entry of ours; None where there is no place for it."""
        for ours, theirs in self.rules:
            match = re.fullmatch(_pattern(ours), name)
            if match:
                return theirs.format(**match.groupdict())
        return None


@functools.cache
def _pattern(template: str) -> str:
    return re.sub(r'\\\{(\w+)\\\}', lambda match: f'(?P<{match[1]}>{FIELDS[match[1]]})', re.escape(template))


PANOPTIC = {'bbox_attention.': 'panoptic head', 'mask_head.': 'panoptic head'}

OURS = Layout(
    name='mmdet_detr',
    title='mmdet_detr',
    marks=('bbox_head.class_embed.weight',),
    rules=(('{rest}', '{rest}'),),
)

OFFICIAL = Layout(
    name='detr',
    title='facebookresearch/detr',
    marks=('transformer.decoder.norm.weight', 'input_proj.weight', 'query_embed.weight', 'class_embed.weight'),
    rules=(
        ('backbone.{rest}', 'backbone.0.body.{rest}'),
        ('neck.{part}.{rest}', 'transformer.{part}.{rest}'),
        ('neck.input_proj.{p}', 'input_proj.{p}'),
        ('neck.query_embed.weight', 'query_embed.weight'),
        ('bbox_head.class_embed.{p}', 'class_embed.{p}'),
        ('bbox_head.bbox_embed.{rest}', 'bbox_embed.{rest}'),
    ),
    dropped=PANOPTIC,
)


def _mmdet_transformer(
    prefix: str, attention: str, cross_attention: str, ffn: str, norm: str
) -> tuple[tuple[str, str], ...]:
    layer, decoder = 'neck.{part}.layers.{n}.', 'neck.decoder.layers.{n}.'
    their_layer, their_decoder = prefix + '{part}.layers.{n}.', prefix + 'decoder.layers.{n}.'
    return (
        (layer + 'self_attn.{rest}', f'{their_layer}{attention}.attn.{{rest}}'),
        (decoder + 'multihead_attn.{rest}', f'{their_decoder}{cross_attention}.attn.{{rest}}'),
        (layer + 'linear1.{p}', f'{their_layer}{ffn}.layers.0.0.{{p}}'),
        (layer + 'linear2.{p}', f'{their_layer}{ffn}.layers.1.{{p}}'),
        *((f'{layer}norm{i + 1}.{{p}}', f'{their_layer}norms.{i}.{{p}}') for i in range(3)),
        ('neck.decoder.norm.{p}', f'{prefix}decoder.{norm}.{{p}}'),
    )


MMDET_BRANCHES = (
    ('bbox_head.class_embed.{p}', 'bbox_head.fc_cls.{p}'),
    ('bbox_head.bbox_embed.layers.0.{p}', 'bbox_head.reg_ffn.layers.0.0.{p}'),
    ('bbox_head.bbox_embed.layers.1.{p}', 'bbox_head.reg_ffn.layers.1.{p}'),
    ('bbox_head.bbox_embed.layers.2.{p}', 'bbox_head.fc_reg.{p}'),
)

MMDET3 = Layout(
    name='mmdet3',
    title='mmdet 3.x',
    marks=('neck.convs.0.conv.weight', 'query_embedding.weight', 'decoder.post_norm.weight', 'bbox_head.fc_cls.weight'),
    rules=(
        ('backbone.{rest}', 'backbone.{rest}'),
        ('neck.input_proj.{p}', 'neck.convs.0.conv.{p}'),
        ('neck.query_embed.weight', 'query_embedding.weight'),
        *_mmdet_transformer('', 'self_attn', 'cross_attn', 'ffn', 'post_norm'),
        *MMDET_BRANCHES,
    ),
)

MMDET2_OUTER = (
    ('backbone.{rest}', 'backbone.{rest}'),
    ('neck.input_proj.{p}', 'bbox_head.input_proj.{p}'),
    ('neck.query_embed.weight', 'bbox_head.query_embedding.weight'),
)
MMDET2_MARKS = ('bbox_head.input_proj.weight', 'bbox_head.query_embedding.weight', 'bbox_head.fc_cls.weight')

MMDET2_12 = Layout(
    name='mmdet2.12',
    title='mmdet 2.12 to 2.28',
    marks=(*MMDET2_MARKS, 'bbox_head.transformer.decoder.post_norm.weight'),
    rules=(
        *MMDET2_OUTER,
        *_mmdet_transformer('bbox_head.transformer.', 'attentions.0', 'attentions.1', 'ffns.0', 'post_norm'),
        *MMDET_BRANCHES,
    ),
)

MMDET2_7 = Layout(
    name='mmdet2.7',
    title='mmdet 2.7 to 2.11',
    marks=(*MMDET2_MARKS, 'bbox_head.transformer.decoder.norm.weight'),
    rules=(
        *MMDET2_OUTER,
        *_mmdet_transformer('bbox_head.transformer.', 'self_attn', 'multihead_attn', 'ffn', 'norm'),
        *MMDET_BRANCHES,
    ),
)

HF_BACKBONE = 'model.backbone.conv_encoder.model.'
HF_MARKS = ('class_labels_classifier.weight', 'model.query_position_embeddings.weight')
HF_RULES = (
    ('neck.input_proj.{p}', 'model.input_projection.{p}'),
    ('neck.query_embed.weight', 'model.query_position_embeddings.weight'),
    ('neck.decoder.norm.{p}', 'model.decoder.layernorm.{p}'),
    ('neck.encoder.layers.{n}.norm2.{p}', 'model.encoder.layers.{n}.final_layer_norm.{p}'),
    ('neck.decoder.layers.{n}.norm2.{p}', 'model.decoder.layers.{n}.encoder_attn_layer_norm.{p}'),
    ('neck.decoder.layers.{n}.norm3.{p}', 'model.decoder.layers.{n}.final_layer_norm.{p}'),
    ('neck.{part}.layers.{n}.norm1.{p}', 'model.{part}.layers.{n}.self_attn_layer_norm.{p}'),
    ('neck.{part}.layers.{n}.linear1.{p}', 'model.{part}.layers.{n}.fc1.{p}'),
    ('neck.{part}.layers.{n}.linear2.{p}', 'model.{part}.layers.{n}.fc2.{p}'),
    ('neck.{part}.layers.{n}.self_attn.{rest}', 'model.{part}.layers.{n}.self_attn.{rest}'),
    ('neck.decoder.layers.{n}.multihead_attn.{rest}', 'model.decoder.layers.{n}.encoder_attn.{rest}'),
    ('bbox_head.class_embed.{p}', 'class_labels_classifier.{p}'),
    ('bbox_head.bbox_embed.{rest}', 'bbox_predictor.{rest}'),
)
HF_VARIANTS = (
    (r'^model\.backbone\.model\.', HF_BACKBONE),  # the three are names in transformers 5, before it saves them
    (r'\.o_proj\.', '.out_proj.'),
    (r'\.mlp\.fc', '.fc'),
)
RESNET_RULES = (
    ('backbone.conv1.weight', f'{HF_BACKBONE}embedder.embedder.convolution.weight'),
    ('backbone.bn1.{rest}', f'{HF_BACKBONE}embedder.embedder.normalization.{{rest}}'),
    *(
        (f'backbone.layer{stage + 1}.{{n}}.{ours}', f'{HF_BACKBONE}encoder.stages.{stage}.layers.{{n}}.{theirs}')
        for stage in range(4)
        for ours, theirs in (
            *((f'conv{i + 1}.weight', f'layer.{i}.convolution.weight') for i in range(3)),
            *((f'bn{i + 1}.{{rest}}', f'layer.{i}.normalization.{{rest}}') for i in range(3)),
            ('downsample.0.weight', 'shortcut.convolution.weight'),
            ('downsample.1.{rest}', 'shortcut.normalization.{rest}'),
        )
    ),
)

HF = Layout(
    name='hf',
    title="Hugging Face, transformers' ResNet",
    marks=(*HF_MARKS, f'{HF_BACKBONE}embedder.embedder.convolution.weight'),
    rules=(*RESNET_RULES, *HF_RULES),
    variants=HF_VARIANTS,
    dropped=PANOPTIC,
    splits_attention=True,
)

HF_TIMM = Layout(
    name='hf_timm',
    title="Hugging Face, timm's ResNet",
    marks=(*HF_MARKS, f'{HF_BACKBONE}conv1.weight'),
    rules=(('backbone.{rest}', f'{HF_BACKBONE}{{rest}}'), *HF_RULES),
    variants=HF_VARIANTS,
    dropped=PANOPTIC,
    splits_attention=True,
)

RESNET = Layout(
    name='resnet',
    title='ResNet of torchvision or timm',
    marks=('conv1.weight', 'bn1.weight', 'layer1.0.conv1.weight'),
    rules=(('backbone.{rest}', '{rest}'),),
    dropped={'fc.': 'classifier of ImageNet'},
)

LAYOUTS = (OURS, OFFICIAL, MMDET3, MMDET2_12, MMDET2_7, HF, HF_TIMM, RESNET)


@dataclass
class Named:
    """Weights under our names, with what was recognised and left out."""

    layout: Layout
    weights: dict[str, Tensor]
    dropped: dict[str, str]


def to_our_names(state_dict: dict[str, Tensor], path: str) -> Named | None:
    """Recognise the layout of a state dict and rename its entries to ours.

    Args:
        state_dict: entries of any layout, with or without prefixes of wrappers; not changed.
        path: names the file in errors.

    Returns:
        The renamed weights; None where no layout is recognised.

    Raises:
        CheckpointError: the layout is recognised and holds entries that no DETR has, or half an attention.
    """
    weights, dropped = _network(state_dict)
    layout = _recognised(weights)
    if layout is None:
        return None
    renamed = {}
    for name, value in weights.items():
        reason = next((why for start, why in layout.dropped.items() if name.startswith(start)), None)
        if reason:
            dropped[name] = reason
        else:
            renamed[_respelled(name, layout)] = value
    if layout.splits_attention:
        renamed = _merge_attention(renamed, path)
    return Named(layout, {_our_name(name, layout, path): value for name, value in renamed.items()}, dropped)


def is_detr(state_dict: dict[str, Any]) -> bool:
    """Whether a state dict is a DETR of a known layout, at first sight."""
    layout = _recognised(_network(state_dict)[0])
    return layout is not None and layout is not RESNET


def _recognised(weights: dict[str, Tensor]) -> Layout | None:
    for layout in LAYOUTS:
        if set(layout.marks) <= {_respelled(name, layout) for name in weights}:
            return layout
    return None


def _network(state_dict: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The entries of the network without wrappers' prefixes, and the reasons for which others were left out."""
    weights, dropped = {}, {}
    for name, value in state_dict.items():
        reason = next((why for pattern, why in SURPLUS.items() if re.fullmatch(pattern, str(name))), None)
        if reason or not isinstance(value, Tensor):
            dropped[str(name)] = reason or 'no tensor'
        else:
            weights[str(name)] = value
    weights = _without_wrappers(weights)
    if any(name.startswith('detr.') for name in weights):  # panoptic models hold a detector of this name
        weights = {name.removeprefix('detr.'): value for name, value in weights.items()}
    return weights, dropped


def from_our_names(weights: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Rename our weights to those of another layout; counters of BatchNorm stay with us and mmdet.

    Raises:
        CheckpointError: an entry has no place in the layout.
    """
    counts = layout.name.startswith('mmdet')
    renamed = {}
    for name, value in weights.items():
        if name.endswith('num_batches_tracked') and not counts:
            continue
        theirs = layout.from_ours(name)
        if theirs is None:
            raise CheckpointError(f'{name} has no place in the layout of {layout.title}')
        renamed[theirs] = value
    return _split_attention(renamed) if layout.splits_attention else renamed


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            return _without_wrappers({name.removeprefix(wrapper): value for name, value in weights.items()})
    return weights


def _respelled(name: str, layout: Layout) -> str:
    for pattern, replacement in layout.variants:
        name = re.sub(pattern, replacement, name)
    return name


def _our_name(name: str, layout: Layout, path: str) -> str:
    ours = layout.to_ours(name)
    if ours is None:
        raise CheckpointError(f'{path} looks like {layout.title}, but {name} belongs to no DETR')
    return ours


def _merge_attention(weights: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    merged = {}
    for name, value in weights.items():
        match = re.fullmatch(r'(.+)\.([qkv])_proj\.(weight|bias)', name)
        if not match:
            merged[name] = value
            continue
        parts = [f'{match[1]}.{part}_proj.{match[3]}' for part in 'qkv']
        missing = [part for part in parts if part not in weights]
        if missing:
            raise CheckpointError(f'{path} lacks {missing[0]}')
        if match[2] == 'q':
            merged[f'{match[1]}.in_proj_{match[3]}'] = torch.cat([weights[part] for part in parts])
    return merged


def _split_attention(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    split = {}
    for name, value in weights.items():
        match = re.fullmatch(r'(.+)\.in_proj_(weight|bias)', name)
        if not match:
            split[name] = value
            continue
        for part, matrix in zip('qkv', value.chunk(3), strict=True):
            split[f'{match[1]}.{part}_proj.{match[2]}'] = matrix.clone()
    return split
