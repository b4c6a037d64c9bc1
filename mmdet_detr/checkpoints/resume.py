"""Refuse to resume a training from a checkpoint that only its weights would fit."""

from torch import Tensor, nn

from ..errors import CheckpointError
from .layouts import TRAINING_ONLY
from .source import source_of


def require_resumable(checkpoint: dict, model: nn.Module) -> None:
    """Compare a checkpoint with the model before mmengine restores the state of the optimizer.

    Weights are fitted to other classes and queries, the optimizer's values for each weight are not.

    Args:
        checkpoint: of mmengine's runner.
        model: with ``dataset_meta``, if the names of its classes are known.

    Raises:
        CheckpointError: the checkpoint is not of a training, or its classes, queries or parameters are not the model's.
    """
    state_dict, meta = checkpoint.get('state_dict', {}), checkpoint.get('meta', {})
    source = source_of(getattr(state_dict, '_metadata', {}).get('', {}))
    path = source.path if source else 'the checkpoint'
    if not {'epoch', 'iter'} <= meta.keys():
        reason = 'holds no state of a training'
    elif 'optimizer' not in checkpoint:
        return
    else:
        found = _other_parameter(state_dict, model) or _other_classes(meta.get('dataset_meta'), model)
        if found is None:
            return
        reason = f'does not fit the optimizer: {found}'
    raise CheckpointError(f'--resume: {path} {reason}. To start anew from its weights, name it in load_from')


def _other_parameter(state_dict: dict[str, Tensor], model: nn.Module) -> str | None:
    for name, value in model.named_parameters():
        theirs = tuple(state_dict[name].shape) if name in state_dict else 'missing'
        if theirs != tuple(value.shape):
            return f'{name} is {theirs} in the checkpoint and {tuple(value.shape)} in the model'
    known = model.state_dict()
    left = (name for name in state_dict if name.startswith(TRAINING_ONLY) and name not in known)
    return next((f'the model lacks {name}' for name in left), None)


def _other_classes(dataset_meta: dict | None, model: nn.Module) -> str | None:
    given, own = (
        tuple((meta or {}).get('classes') or ()) for meta in (dataset_meta, getattr(model, 'dataset_meta', {}))
    )
    if not given or not own or given == own:
        return None
    return f'its classes are {", ".join(given[:8])}, those of the data {", ".join(own[:8])}'
