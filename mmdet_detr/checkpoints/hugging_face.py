"""Make the two JSON files of a Hugging Face model: ``config.json`` and ``preprocessor_config.json``."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .architecture import architecture_of
from .class_rows import PUBLISHED
from .layouts import MASK_HEAD, with_mask_head
from .source import placeholders

BOTTLENECK_EXPANSION = 4
MASK_GROUPS = 8  # of every GroupNorm in the mask head


@dataclass(frozen=True)
class Settings:
    """Settings of a Hugging Face model besides its weights; the defaults are those of the published models."""

    num_heads: int = 8
    dropout: float = 0.1
    dilated: bool = False  # the last stage of the backbone (DC5)
    shortest: int | None = 800  # the shorter side of a resized image; None for no resize
    longest: int | None = 1333  # the most that its longer side may be; None for no bound
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of red, green and blue, in 0..1
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


def settings_from_config(config: dict[str, Any]) -> Settings:
    """Settings from the config of a DETR; a CheckpointError if Hugging Face lacks its backbone or image preparation."""
    model = config['model']
    neck, backbone, prepare = (model.get(part) or {} for part in ('neck', 'backbone', 'data_preprocessor'))
    if backbone.get('style', 'pytorch') != 'pytorch':
        raise CheckpointError('the backbone strides in the first convolution of a block, unlike that of transformers')
    dilated = backbone.get('type') == 'mmdet_detr.ResNetDC5'
    if not dilated and max(backbone.get('dilations') or (1,)) > 1:
        raise CheckpointError("the backbone is dilated otherwise than mmdet_detr.ResNetDC5 and timm's ResNet")
    if (model.get('mask_head') or {}).get('groups', MASK_GROUPS) != MASK_GROUPS:
        raise CheckpointError(f'the mask head has GroupNorm of other than the {MASK_GROUPS} groups in transformers')
    if not prepare.get('bgr_to_rgb'):
        raise CheckpointError('the model reads BGR images, Hugging Face models read RGB')
    loader = config.get('test_dataloader') or {}
    pipeline = loader.get('dataset', {}).get('pipeline') or config.get('test_pipeline') or []
    resizes = [step for step in pipeline if 'Resize' in str(step.get('type'))]
    if any(step['type'] != 'mmdet_detr.ShortestSideResize' for step in resizes) or len(resizes) > 1:
        raise CheckpointError('the test pipeline resizes otherwise than by one mmdet_detr.ShortestSideResize')
    return Settings(
        num_heads=neck.get('num_heads', 8),
        dropout=neck.get('dropout', 0.1),
        dilated=dilated,
        shortest=resizes[0]['sizes'][0] if resizes else None,
        longest=resizes[0].get('longest', 1333) if resizes else None,
        mean=tuple(value / 255 for value in prepare.get('mean') or (0, 0, 0)),  # mmdet does not normalise by default
        std=tuple(value / 255 for value in prepare.get('std') or (1, 1, 1)),
    )


def class_names(classes: tuple[str, ...] | None, num_rows: int) -> tuple[str, ...]:
    """Names of all outputs but the last, no object; a CheckpointError if given names are for all outputs."""
    if classes and len(classes) == num_rows:
        raise CheckpointError('the classifier is sigmoid and has no output for no object, as Hugging Face models have')
    if classes:
        return classes
    return PUBLISHED.get(num_rows - 1, placeholders(num_rows - 1))


def model_config(weights: dict[str, Tensor], classes: tuple[str, ...], settings: Settings) -> dict[str, Any]:
    """Content of ``config.json`` for weights under our names.

    Raises:
        CheckpointError: transformers has no such backbone or mask head.
    """
    sizes = architecture_of(weights)
    if not sizes.blocks or (settings.dilated and sizes.depth is None):
        raise CheckpointError('the backbone is no ResNet that transformers has')
    expansion = BOTTLENECK_EXPANSION if sizes.bottlenecks else 1
    stages = [f'backbone.layer{stage + 1}.0.conv1.weight' for stage in range(len(sizes.blocks))]
    widths = [len(weights[name]) * expansion for name in stages]
    masks, last = with_mask_head(weights), len(sizes.blocks) - 1
    resnet = {
        'model_type': 'resnet',
        'embedding_size': len(weights['backbone.conv1.weight']),
        'hidden_sizes': widths,
        'depths': list(sizes.blocks),
        'layer_type': 'bottleneck' if sizes.bottlenecks else 'basic',
        'out_features': [f'stage{stage + 1}' for stage in range(len(sizes.blocks)) if masks or stage == last],
    }
    if masks:
        _check_mask_head(weights, widths, sizes.embed_dims + settings.num_heads)
    own = {'use_timm_backbone': False, 'backbone': None, 'backbone_config': resnet}
    timm = {'use_timm_backbone': True, 'backbone': f'resnet{sizes.depth}'}  # transformers' own ResNet cannot dilate
    return {
        'architectures': ['DetrForSegmentation' if masks else 'DetrForObjectDetection'],
        'model_type': 'detr',
        'd_model': sizes.embed_dims,
        'encoder_layers': sizes.num_encoder_layers,
        'decoder_layers': sizes.num_decoder_layers,
        'encoder_ffn_dim': sizes.feedforward_channels,
        'decoder_ffn_dim': sizes.feedforward_channels,
        'encoder_attention_heads': settings.num_heads,
        'decoder_attention_heads': settings.num_heads,
        'num_queries': len(weights['neck.query_embed.weight']),
        'dropout': settings.dropout,
        'dilation': settings.dilated,
        'use_pretrained_backbone': False,
        **(timm if settings.dilated else own),
        'id2label': {str(i): name for i, name in enumerate(classes)},
        'label2id': {name: i for i, name in enumerate(classes)},
    }


def _check_mask_head(weights: dict[str, Tensor], widths: list[int], num_inputs: int) -> None:
    """Compare the inputs of the mask head with those in transformers, for a backbone with stages of these widths."""
    adapters = [weights.get(f'{MASK_HEAD}adapter{level + 1}.weight') for level in range(len(widths))]
    levels = [adapter.shape[1] for adapter in adapters if adapter is not None]
    if len(widths) != 4 or levels != widths[2::-1]:
        raise CheckpointError(
            f'the mask head reads maps of {levels} channels, that of transformers the first three of four stages'
        )
    inputs = weights[f'{MASK_HEAD}lay1.weight'].shape[1]
    if inputs != num_inputs:
        raise CheckpointError(f'the mask head has {inputs} inputs, that of transformers would have {num_inputs}')


def processor_config(settings: Settings, masks: bool) -> dict[str, Any]:
    """Content of ``preprocessor_config.json``, for a model with or without masks."""
    return {
        'image_processor_type': 'DetrImageProcessor',
        'format': 'coco_panoptic' if masks else 'coco_detection',
        'do_resize': settings.shortest is not None,
        'size': {'shortest_edge': settings.shortest or 800, 'longest_edge': settings.longest or 2**31 - 1},
        'resample': 2,  # PIL's bilinear
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(settings.mean),
        'image_std': list(settings.std),
        'do_pad': True,
    }
