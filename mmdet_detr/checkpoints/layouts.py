"""The names that each published implementation of DETR gives to its parameters, and how they map to ours.

A layout is a list of pairs of templates, our name and theirs. It is read in both directions.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

Rules = tuple[tuple[str, str], ...]  # (our template, their template); ``{n}`` and the like stand for FIELDS
FIELDS = {'n': r'\d+', 'p': 'weight|bias', 'part': 'encoder|decoder', 'rest': '.+'}


@dataclass(frozen=True)
class Layout:
    """Names of one implementation."""

    name: str  # in ``convert_checkpoint --to``
    title: str  # in messages
    marks: tuple[str, ...]  # entries that only this layout has, and that nobody removes before fine-tuning
    rules: Rules
    variants: tuple[tuple[str, str], ...] = ()  # (pattern, replacement): turn other spellings into this one
    dropped: dict[str, str] = field(default_factory=dict)  # start of entries that are no part of a DETR: the reason
    splits_attention: bool = False  # query, key and value have matrices of their own
    detector: str = ''  # start of all entries but the mask head's, in a model that has one

    def to_ours(self, name: str) -> str | None:
        """Our name of an entry; None if the layout does not know it."""
        return _translated(name, ((theirs, ours) for ours, theirs in self.rules))

    def from_ours(self, name: str) -> str | None:
        """Their name of an entry of ours; None if they have no such entry."""
        return _translated(name, self.rules)

    @property
    def has_masks(self) -> bool:
        """Whether the implementation has a place for a mask head."""
        return self.from_ours(MASK_HEAD + 'out_lay.weight') is not None


def with_mask_head(names: Iterable[str]) -> bool:
    """Whether entries under our names have a mask head among them."""
    return any(name.startswith(MASK_HEAD) for name in names)


def _translated(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for given, translated in rules:
        if match := re.fullmatch(_pattern(given), name):
            return translated.format(**match.groupdict())
    return None


@functools.cache
def _pattern(template: str) -> str:
    return re.sub(r'\\\{(\w+)\\\}', lambda match: f'(?P<{match[1]}>{FIELDS[match[1]]})', re.escape(template))


TRAINING_ONLY = 'bbox_head.training_queries.'  # our entries that only training needs
MASK_HEAD = 'mask_head.'  # our entries of the mask head
REMOVABLE = (
    'bbox_head.class_embed.',
    'bbox_head.bbox_embed.',
    'neck.query_embed.',
)  # what guides to fine-tuning remove
PANOPTIC_DETECTOR = 'detr.'  # the official panoptic model and that of transformers hold the detector under this name
MASK_RULES = (  # the attention of the mask head stands beside the head
    ('mask_head.bbox_attention.{rest}', 'bbox_attention.{rest}'),
    ('mask_head.{rest}', 'mask_head.{rest}'),
)

OURS = Layout('mmdet_detr', 'mmdet_detr', marks=('neck.decoder.norm.weight',), rules=(('{rest}', '{rest}'),))

OFFICIAL = Layout(
    name='detr',
    title='facebookresearch/detr',
    marks=('transformer.decoder.norm.weight', 'input_proj.weight'),
    rules=(
        ('backbone.{rest}', 'backbone.0.body.{rest}'),
        ('neck.{part}.{rest}', 'transformer.{part}.{rest}'),
        ('neck.input_proj.{p}', 'input_proj.{p}'),
        ('neck.query_embed.weight', 'query_embed.weight'),
        ('bbox_head.class_embed.{p}', 'class_embed.{p}'),
        ('bbox_head.bbox_embed.{rest}', 'bbox_embed.{rest}'),
        *MASK_RULES,
    ),
    detector=PANOPTIC_DETECTOR,
)


def _mmdet(
    name: str, title: str, projection: str, queries: str, prefix: str, attentions: tuple[str, str], ffn: str, norm: str
) -> Layout:
    """A layout of mmdet. The arguments after the title name its parts; ``prefix`` starts those of the transformer."""
    layer, decoder = 'neck.{part}.layers.{n}.', 'neck.decoder.layers.{n}.'
    their_layer, their_decoder = prefix + '{part}.layers.{n}.', prefix + 'decoder.layers.{n}.'
    return Layout(
        name=name,
        title=title,
        marks=(f'{projection}.weight', f'{prefix}decoder.{norm}.weight'),
        rules=(
            ('backbone.{rest}', 'backbone.{rest}'),
            ('neck.input_proj.{p}', projection + '.{p}'),
            ('neck.query_embed.weight', queries + '.weight'),
            (layer + 'self_attn.{rest}', f'{their_layer}{attentions[0]}.attn.{{rest}}'),
            (decoder + 'multihead_attn.{rest}', f'{their_decoder}{attentions[1]}.attn.{{rest}}'),
            (layer + 'linear1.{p}', f'{their_layer}{ffn}.layers.0.0.{{p}}'),
            (layer + 'linear2.{p}', f'{their_layer}{ffn}.layers.1.{{p}}'),
            *((f'{layer}norm{i + 1}.{{p}}', f'{their_layer}norms.{i}.{{p}}') for i in range(3)),
            ('neck.decoder.norm.{p}', f'{prefix}decoder.{norm}.{{p}}'),
            ('bbox_head.class_embed.{p}', 'bbox_head.fc_cls.{p}'),
            ('bbox_head.bbox_embed.layers.0.{p}', 'bbox_head.reg_ffn.layers.0.0.{p}'),
            ('bbox_head.bbox_embed.layers.1.{p}', 'bbox_head.reg_ffn.layers.1.{p}'),
            ('bbox_head.bbox_embed.layers.2.{p}', 'bbox_head.fc_reg.{p}'),
        ),
    )


MMDET3 = _mmdet(
    'mmdet3', 'mmdet 3.x', 'neck.convs.0.conv', 'query_embedding', '', ('self_attn', 'cross_attn'), 'ffn', 'post_norm'
)
MMDET2_PARTS = ('bbox_head.input_proj', 'bbox_head.query_embedding', 'bbox_head.transformer.')
MMDET2_12 = _mmdet(
    'mmdet2.12', 'mmdet 2.12 to 2.28', *MMDET2_PARTS, ('attentions.0', 'attentions.1'), 'ffns.0', 'post_norm'
)
MMDET2_7 = _mmdet('mmdet2.7', 'mmdet 2.7 to 2.11', *MMDET2_PARTS, ('self_attn', 'multihead_attn'), 'ffn', 'norm')

HF_BACKBONE = 'model.backbone.conv_encoder.model.'
HF_MARK = 'model.decoder.layernorm.weight'
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
    *MASK_RULES,
)
# transformers 5 has these names in memory, and the older ones in its files
HF_VARIANTS = (
    (r'^model\.backbone\.model\.', HF_BACKBONE),
    (r'\.o_proj\.', '.out_proj.'),
    (r'\.mlp\.fc', '.fc'),
    (r'^bbox_attention\.([qk])_proj\.', r'bbox_attention.\1_linear.'),
    (r'^mask_head\.conv([12])\.conv\.', r'mask_head.lay\1.'),
    (r'^mask_head\.conv([12])\.norm\.', r'mask_head.gn\1.'),
    *(
        (rf'^mask_head\.fpn_stages\.{stage}\.{theirs}\.', f'mask_head.{ours}.')
        for stage in range(3)
        for ours, theirs in (
            (f'adapter{stage + 1}', 'fpn_adapter'),
            (f'lay{stage + 3}', r'refine\.conv'),
            (f'gn{stage + 3}', r'refine\.norm'),
        )
    ),
    (r'^mask_head\.output_conv\.', 'mask_head.out_lay.'),
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
    marks=(HF_MARK, f'{HF_BACKBONE}embedder.embedder.convolution.weight'),
    rules=(*RESNET_RULES, *HF_RULES),
    variants=HF_VARIANTS,
    splits_attention=True,
    detector=PANOPTIC_DETECTOR,
)

HF_TIMM = replace(
    HF,
    name='hf_timm',
    title="Hugging Face, timm's ResNet",
    marks=(HF_MARK, f'{HF_BACKBONE}conv1.weight'),
    rules=(('backbone.{rest}', f'{HF_BACKBONE}{{rest}}'), *HF_RULES),
)

RESNET = Layout(
    name='resnet',
    title='ResNet of torchvision or timm',
    marks=('conv1.weight', 'bn1.weight', 'layer1.0.conv1.weight'),
    rules=(('backbone.{rest}', '{rest}'),),
    dropped={'fc.': 'classifier of ImageNet'},
)

LAYOUTS = (OURS, OFFICIAL, MMDET3, MMDET2_12, MMDET2_7, HF, HF_TIMM, RESNET)
