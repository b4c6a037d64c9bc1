"""What a file says about its weights besides the tensors, and where in a file the weights are."""

import argparse
import contextlib
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from .renaming import is_detr

# where training scripts keep weights, averaged ones first; mmengine's ``state_dict`` is the averaged one already
AVERAGED = ('state_dict_ema', 'model_ema', 'ema')
PLAIN = ('state_dict', 'model', 'model_state_dict', 'module')


@dataclass(frozen=True)
class Source:
    """Facts about weights from a file. They are plain values, because they travel inside the state dict."""

    path: str  # file or folder that was read
    classes: tuple[str, ...] | None = None  # names, without the no-object class
    num_heads: int | None = None  # of every attention
    dilated: bool | None = None  # the last stage of the backbone (DC5)
    unfit: str | None = None  # why the weights belong to no DETR that we have, if the file says so
    dropped: dict[str, str] = field(default_factory=dict)  # entries that are no weights, with the reason


def source_of(metadata: dict) -> Source | None:
    """The :class:`Source` in the metadata of a state dict; None if we did not read it from a file."""
    values = metadata.get('source')
    return Source(**values) if values else None


def with_source(checkpoint: dict, source: Source) -> dict:
    """The content of a file, with its source in the metadata of its weights.

    The weights of a DETR are moved to ``state_dict``. Nothing else changes in the content of another model.
    """
    key = next((key for key in (*AVERAGED, *PLAIN) if is_detr(_innermost(checkpoint.get(key)))), None)
    if key is not None:
        weights, meta = _innermost(checkpoint[key]), checkpoint.get('meta', {})
        dropped = {str(name): 'no weights of the network' for name in checkpoint if name not in (key, 'meta')}
        source = replace(source, dropped=dropped, **_training_facts(checkpoint, source))
    elif is_detr(checkpoint):
        checkpoint, weights, meta = {}, checkpoint, {}
    elif isinstance(checkpoint.get('state_dict'), dict):
        return {**checkpoint, 'state_dict': _marked(checkpoint['state_dict'], source)}
    else:
        return _marked(checkpoint, source)
    weights = _marked(weights, source)
    if isinstance(meta, dict) and not {'dataset_meta', 'CLASSES'} & meta.keys():
        # One object in two places: a model writes its own class names into it, and mmdet's inference reads them.
        meta = {**meta, 'dataset_meta': {'classes': source.classes}} if source.classes else {**meta}
        weights._metadata['']['meta'] = meta  # type: ignore[attr-defined]
    return {**checkpoint, 'state_dict': weights, 'meta': meta}


def facts_of(config: dict) -> dict[str, Any]:
    """Fields of :class:`Source` from a Hugging Face ``config.json``."""
    labels, heads = config.get('id2label'), config.get('encoder_attention_heads')
    classes = None
    if isinstance(labels, dict):
        with contextlib.suppress(ValueError):
            classes = tuple(str(labels[key]) for key in sorted(labels, key=int))
    if classes == placeholders(len(classes or ())):
        classes = None
    backbone = config.get('backbone_config') or {}
    strides = [backbone.get('output_stride'), (config.get('backbone_kwargs') or {}).get('output_stride')]
    return {
        'classes': classes,
        'num_heads': heads if isinstance(heads, int) else None,
        'dilated': 16 in strides or config.get('dilation') in (True, 'true') if 'dilation' in config else None,
        'unfit': next((f'its {name} is {value}' for name, value in _unknown_settings(config, backbone)), None),
    }


def placeholders(number: int) -> tuple[str, ...]:
    """The labels that a Hugging Face model has if nobody has named its classes."""
    return tuple(f'LABEL_{i}' for i in range(number))


def _unknown_settings(config: dict, backbone: dict) -> list[tuple[str, Any]]:
    """Settings that our model does not have."""
    known = {
        'model_type': ('detr',),
        'activation_function': ('relu',),
        'position_embedding_type': ('sine',),
        'decoder_attention_heads': (config.get('encoder_attention_heads'),),
    }
    unknown = [(name, config[name]) for name, values in known.items() if name in config and config[name] not in values]
    resnet = ('downsample_in_bottleneck', 'downsample_in_first_stage')
    return unknown + [(name, True) for name in resnet if backbone.get(name)]


def _marked(weights: dict, source: Source) -> OrderedDict:
    metadata = OrderedDict(getattr(weights, '_metadata', {}))
    metadata[''] = {**metadata.get('', {}), 'source': asdict(source)}
    marked = OrderedDict(weights)
    marked._metadata = metadata  # type: ignore[attr-defined]  # PyTorch hands it to load_state_dict
    return marked


def _innermost(weights: Any) -> dict:
    """The state dict in a value that may wrap it, as ``{'module': {...}}``; empty if there is none."""
    if not isinstance(weights, dict):
        return {}
    if any(isinstance(value, Tensor) for value in weights.values()):
        return weights
    return next(filter(None, (_innermost(weights.get(key)) for key in PLAIN)), {})


def _training_facts(checkpoint: dict, source: Source) -> dict[str, Any]:
    """Fields of :class:`Source` from what training scripts save beside the weights."""
    meta, args = checkpoint.get('meta'), checkpoint.get('args')
    meta = meta if isinstance(meta, dict) else {}
    args = vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, dict) else {}
    dataset_meta = meta.get('dataset_meta')
    dataset_meta = dataset_meta if isinstance(dataset_meta, dict) else {}
    classes = source.classes or dataset_meta.get('classes') or dataset_meta.get('CLASSES') or meta.get('CLASSES')
    return {
        'classes': tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else None,
        'num_heads': source.num_heads or args.get('nheads'),
        'dilated': source.dilated if args.get('dilation') is None else bool(args['dilation']),
    }
