"""Recognise the layout of a state dict, and rename its entries to ours and back."""

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from .layouts import LAYOUTS, MASK_HEAD, PANOPTIC_DETECTOR, RESNET, Layout, with_mask_head

WRAPPERS = ('module.', '_orig_mod.', 'model.', 'ema.')  # DataParallel, torch.compile, training frameworks
SURPLUS = {  # patterns of entries that training leaves beside the network
    r'n_averaged|steps': 'counter of an averaged model',
    r'(module\.)?ema_.+': 'averaged copy: mmdet 2.x swaps it with the weights before it saves',
    r'criterion\..+': 'buffer of the loss',
}


class Named(NamedTuple):
    """Weights under our names, their layout, and the entries that were left out with the reasons."""

    layout: Layout
    weights: dict[str, Tensor]
    dropped: dict[str, str]


def to_our_names(state_dict: dict[str, Tensor], path: str) -> Named | None:
    """Recognise the layout of a state dict and rename its entries to ours.

    Args:
        state_dict: entries of any layout, with or without prefixes of wrappers; not changed.
        path: names the file in errors.

    Returns:
        The renamed weights; None if no layout is recognised.

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
    ours = {}
    for name, value in renamed.items():
        our_name = layout.to_ours(name)
        if our_name is None:
            raise CheckpointError(
                f'{path} looks like {layout.title}, but {name} belongs to no DETR: name the file of a DETR'
            )
        ours[our_name] = value
    return Named(layout, ours, dropped)


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
    if any(name.startswith(PANOPTIC_DETECTOR) for name in weights):
        weights = {name.removeprefix(PANOPTIC_DETECTOR): value for name, value in weights.items()}
    while any(name.startswith('detector.') for name in weights):  # an AuxiliaryHeadDetector may be in another
        dropped |= {name: 'auxiliary head' for name in weights if not name.startswith('detector.')}
        weights = {name.removeprefix('detector.'): value for name, value in weights.items() if name not in dropped}
    return weights, dropped


def from_our_names(weights: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Rename our weights to those of another layout. Only mmdet's layouts and ours have counters of BatchNorm.

    Raises:
        CheckpointError: an entry has no place in the layout.
    """
    counts = layout.name.startswith('mmdet')
    detector = layout.detector if with_mask_head(weights) else ''
    renamed = {}
    for name, value in weights.items():
        if name.endswith('num_batches_tracked') and not counts:
            continue
        theirs = layout.from_ours(name)
        if theirs is None:
            raise CheckpointError(f'{name} has no place in the layout of {layout.title}')
        renamed[theirs if name.startswith(MASK_HEAD) else detector + theirs] = value
    return _split_attention(renamed) if layout.splits_attention else renamed


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    if _recognised(weights):  # Hugging Face's entries but the head's begin with a wrapper's prefix, too
        return weights
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            return _without_wrappers({name.removeprefix(wrapper): value for name, value in weights.items()})
    return weights


def _respelled(name: str, layout: Layout) -> str:
    for pattern, replacement in layout.variants:
        name = re.sub(pattern, replacement, name)
    return name


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
            raise CheckpointError(f'{path} lacks {missing[0]}: it is incomplete, save it again')
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
