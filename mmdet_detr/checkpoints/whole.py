"""Take a DETR that lacks nothing from the content of a file."""

from typing import Any

from ..errors import CheckpointError
from .layouts import REMOVABLE, RESNET
from .renaming import Named, to_our_names
from .source import Source, source_of


def whole_detr(checkpoint: dict[str, Any]) -> tuple[Named, Source]:
    """The weights under our names, and where they come from.

    Args:
        checkpoint: what :func:`~mmdet_detr.checkpoints.files.load_from_local` returns.

    Raises:
        CheckpointError: it is no DETR, another DETR than ours, or one without a part that every DETR needs.
    """
    state_dict = checkpoint.get('state_dict', checkpoint)
    source = source_of(state_dict._metadata[''])
    assert source is not None  # the loader adds it
    named = to_our_names(state_dict, source.path)
    if named is None or named.layout is RESNET:
        raise CheckpointError(f'{source.path} is no checkpoint of a DETR')
    if source.unfit:
        raise CheckpointError(f'{source.path} is no checkpoint of this DETR: {source.unfit}')
    removed = next((start for start in REMOVABLE if not any(name.startswith(start) for name in named.weights)), None)
    if removed:
        raise CheckpointError(f'{source.path} has no {removed}*, which every DETR needs: train it first')
    return named, source
