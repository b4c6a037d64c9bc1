"""Read what ``torch.save`` wrote, with an unpickler that runs no code."""

import argparse
import pickle
import re
import zipfile
from _codecs import encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from ..errors import CheckpointError
from . import numpy_values

MapLocation = str | torch.device | Callable | dict | None
METHODS = {
    HistoryBuffer: ('min', 'max', 'mean', 'current'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


def load_pickle(path: Path, map_location: MapLocation) -> Any:
    """Read a file of ``torch.save``. A damaged file raises anything.

    Raises:
        CheckpointError: the file would run code, is compressed, or is no pickle.
    """
    if _is_compressed(path):  # a small file may become a large one in memory
        raise CheckpointError(f'{path} is refused: it is compressed, and torch.save compresses nothing: save it again')
    try:
        return numpy_values.with_arrays(_torch_load(path, map_location))
    except pickle.UnpicklingError as error:
        if refused := re.search(r'GLOBAL ([\w.]+)', str(error)):
            raise CheckpointError(
                f'{path} is refused: it would run code ({refused[1]}) when read. If you trust it, load it by '
                'torch.load(weights_only=False) and save its weights alone'
            ) from error
        raise CheckpointError(f'{path} is no checkpoint, or is damaged') from error


def _is_compressed(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())


def _method(owner: type, name: str) -> Callable:
    """Takes the place of ``getattr``: mmengine's log history and one of its schedules store their own methods."""
    if name not in METHODS.get(owner, ()):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr.{name}')
    return getattr(owner, name)


# A training checkpoint may hold these besides tensors, by the names that pickle gives them.
ALLOWED: dict[str, Any] = {
    'builtins.getattr': _method,
    'builtins.bytes': lambda: b'',  # pickle calls it for the content of an empty array
    'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': OneCycleParamScheduler,
    'mmengine.config.config.ConfigDict': dict,  # the metainfo of a data set, from a config
    'argparse.Namespace': argparse.Namespace,  # the arguments in checkpoints of the official script
    'collections.Counter': Counter,  # milestones of a schedule
    'builtins.set': set,
    '_codecs.encode': encode,
    **numpy_values.STAND_INS,
}


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what is allowed."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = torch._weights_only_unpickler._get_allowed_globals() | ALLOWED
        full_name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        if full_name not in allowed:
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')
        return allowed[full_name]


def _torch_load(path: Path, map_location: MapLocation) -> Any:
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6):
        with torch.serialization.safe_globals([(value, name) for name, value in ALLOWED.items()]):
            return torch.load(path, map_location=map_location, weights_only=True)
    # weights_only of older releases takes no further types, and so cannot read what mmengine saves
    restricted = ModuleType('restricted')
    restricted.Unpickler = _Unpickler  # type: ignore[attr-defined]
    restricted.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
    return torch.load(path, map_location=map_location, pickle_module=restricted)
