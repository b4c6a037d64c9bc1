"""Read checkpoint files of any kind without running code from them."""

import argparse
import contextlib
import json
import os
import pickle
import re
import zipfile
from _codecs import encode
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import safetensors.torch
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torchvision_models
from torch import Tensor

from . import numpy_values
from .errors import CheckpointError, CheckpointNotFoundError
from .renaming import is_detr

MapLocation = str | torch.device | Callable | dict | None
HUGGING_FACE_FILES = ('model.safetensors', 'pytorch_model.bin')
# where training scripts keep weights, averaged ones first; mmengine's ``state_dict`` is the averaged one already
AVERAGED = ('state_dict_ema', 'model_ema', 'ema')
PLAIN = ('state_dict', 'model', 'model_state_dict', 'module')
METHODS = {
    HistoryBuffer: ('min', 'max', 'mean', 'current'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}


@dataclass(frozen=True)
class Source:
    """What a file tells about its weights besides the tensors; plain values, for they travel inside the state dict.

    Attributes:
        path: file or folder that was read.
        classes: names of the classes, without the no-object class.
        num_heads: heads of every attention.
        dilated: whether the last stage of the backbone is dilated (DC5).
        unfit: why these weights are none of a DETR that we have, where the file says so.
        dropped: entries that are no weights, with the reason.
    """

    path: str
    classes: tuple[str, ...] | None = None
    num_heads: int | None = None
    dilated: bool | None = None
    unfit: str | None = None
    dropped: dict[str, str] = field(default_factory=dict)


def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Read a file or a Hugging Face folder, for mmengine's ``CheckpointLoader``.

    Files are told apart by their content: safetensors, or ``torch.save`` with nothing but tensors, plain Python
    values and the few types in which training scripts log.

    Args:
        filename: file with weights, or a folder with ``model.safetensors`` or ``pytorch_model.bin``.
        map_location: as in ``torch.load``.

    Returns:
        The content. Where it is a DETR's, the weights are under mmengine's ``state_dict`` wherever they are in the
        file, and ``meta`` holds the class names of a Hugging Face folder. The metadata of the weights tells their
        :class:`Source`.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged, or wants to run code.
    """
    path = Path(filename).expanduser()
    if not path.exists():
        raise CheckpointNotFoundError(f'no such file: {path}')
    file = _file_in(path) if path.is_dir() else path
    config = file.parent / 'config.json'
    facts = _facts(_read_config(config)) if file.name in HUGGING_FACE_FILES and config.is_file() else {}
    return _with_source(_read_file(file, map_location), Source(str(path), **facts))


def _file_in(folder: Path) -> Path:
    for name in HUGGING_FACE_FILES:
        if (folder / name).is_file():
            return folder / name
        if (folder / f'{name}.index.json').is_file():
            raise CheckpointError(f'{folder} holds {name} in several parts: save it in one')
    raise CheckpointError(f'{folder} is a folder without {" or ".join(HUGGING_FACE_FILES)}')


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Download a file into torch's cache, once, and read it as :func:`load_from_local` does."""
    path = Path(urlparse(filename).path)
    # names without a hash, such as model.safetensors, are not unique
    whole = f'{urlparse(filename).netloc}{path}'
    name = path.name if re.search(r'-[0-9a-f]{8,}\.', path.name) else re.sub(r'[^\w.-]', '--', whole)
    cached = Path(torch.hub.get_dir()) / 'checkpoints' / name
    first = int(os.environ.get('LOCAL_RANK', get_rank())) == 0
    for turn in (first, not first):  # the first process of a machine before its others
        if turn and not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(filename, str(cached))
        barrier()
    return load_from_local(str(cached), map_location)


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> dict:
    """Download ``torchvision://NAME`` and read it as :func:`load_from_local` does."""
    return load_from_http(get_torchvision_models()[filename.split('://')[1]], map_location)


def register_loaders() -> None:
    """Make mmengine read files, addresses and torchvision's models through this module, for every model."""
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    CheckpointLoader.register_scheme(('torchvision://', 'modelzoo://'), load_from_torchvision, force=True)


def source_of(metadata: dict) -> Source | None:
    """The :class:`Source` in the metadata of a state dict; None where it was not read from a file by us."""
    values = metadata.get('source')
    return Source(**values) if values else None


def _read_file(path: Path, map_location: MapLocation) -> dict:
    with path.open('rb') as file:
        head = file.read(9)
    if not head:
        raise CheckpointError(f'{path} is empty')
    try:
        if head[8:] == b'{':  # the header's length in 8 bytes, then JSON
            tensors = safetensors.torch.load_file(path)
            device = map_location if isinstance(map_location, (str, torch.device)) else 'cpu'
            return {name: value.to(device) for name, value in tensors.items()}
        if _is_compressed(path):
            raise CheckpointError(f'{path} is refused: it is compressed, which PyTorch does not do')
        checkpoint = numpy_values.with_arrays(_torch_load(path, map_location))
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        wanted = re.search(r'GLOBAL ([\w.]+)', str(error))
        if wanted:
            raise CheckpointError(f'{path} is refused: it would run code ({wanted[1]}) when read') from error
        raise CheckpointError(f'{path} is no checkpoint, or is damaged') from error
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).splitlines() or [''])[0][:200]
        raise CheckpointError(f'{path} is no checkpoint, or is damaged: {reason}') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__} and no weights')
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)  # of old files; mmengine would run it to resume
    return checkpoint


def _is_compressed(path: Path) -> bool:
    """Whether a small file may become a large one in memory."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())


def _method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``, by which mmengine's log history and a schedule name their own methods."""
    if name not in METHODS.get(owner, ()):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr.{name}')
    return getattr(owner, name)


def _no_bytes() -> bytes:
    """Stands in for ``bytes``, which pickle calls for the content of an empty array."""
    return b''


def _allowed() -> dict[str, Any]:
    """What a training checkpoint may hold besides tensors, by the name that pickle gives it."""
    return {
        'builtins.getattr': _method,
        'builtins.bytes': _no_bytes,
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': OneCycleParamScheduler,
        'mmengine.config.config.ConfigDict': dict,  # what the config says of a data set
        'argparse.Namespace': argparse.Namespace,  # the arguments in the official script's checkpoints
        'collections.Counter': Counter,  # milestones of a schedule
        'builtins.set': set,
        '_codecs.encode': encode,
        **numpy_values.names(),
    }


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what is allowed."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = torch._weights_only_unpickler._get_allowed_globals() | _allowed()
        full_name = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        if full_name not in allowed:
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')
        return allowed[full_name]


def _torch_load(path: Path, map_location: MapLocation) -> Any:
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6):
        with torch.serialization.safe_globals([(value, name) for name, value in _allowed().items()]):
            return torch.load(path, map_location=map_location, weights_only=True)
    # weights_only of older releases takes no further types, and so cannot read what mmengine saves
    restricted = ModuleType('restricted')
    restricted.Unpickler = _Unpickler  # type: ignore[attr-defined]
    restricted.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
    return torch.load(path, map_location=map_location, pickle_module=restricted)


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f'{path} is no JSON: {error}') from error
    if not isinstance(config, dict):
        raise CheckpointError(f'{path} holds no configuration')
    return config


def _facts(config: dict) -> dict[str, Any]:
    """Fields of :class:`Source` from a Hugging Face ``config.json``."""
    labels, heads = config.get('id2label'), config.get('encoder_attention_heads')
    classes = None
    if isinstance(labels, dict):
        with contextlib.suppress(ValueError):
            classes = tuple(str(labels[key]) for key in sorted(labels, key=int))
    backbone = config.get('backbone_config') or {}
    strides = [backbone.get('output_stride'), (config.get('backbone_kwargs') or {}).get('output_stride')]
    return {
        'classes': classes,
        'num_heads': heads if isinstance(heads, int) else None,
        'dilated': 16 in strides or config.get('dilation') in (True, 'true') if 'dilation' in config else None,
        'unfit': next((f'its {name} is {value}' for name, value in _unknown_settings(config, backbone)), None),
    }


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


def _with_source(checkpoint: dict, source: Source) -> dict:
    """The content with its source in the metadata of its weights; normalised where they are a DETR's."""
    key = next((key for key in (*AVERAGED, *PLAIN) if is_detr(_innermost(checkpoint.get(key)))), None)
    if key is None and not is_detr(checkpoint):  # of some other model: nothing but the metadata is added
        weights = checkpoint.get('state_dict')
        if isinstance(weights, dict):
            return {**checkpoint, 'state_dict': _told(weights, source)}
        return _told(checkpoint, source)
    weights = checkpoint if key is None else _innermost(checkpoint[key])
    meta = checkpoint.get('meta', {}) if key else {}
    if key is not None:
        dropped = {str(name): 'no weights of the network' for name in checkpoint if name not in (key, 'meta')}
        source = replace(source, dropped=dropped, **_training_facts(checkpoint, source))
    weights = _told(weights, source)
    if source.classes and isinstance(meta, dict) and not {'dataset_meta', 'CLASSES'} & meta.keys():
        named = {'classes': source.classes}  # one object: the model writes its own names there, for mmdet's inference
        meta = {**meta, 'dataset_meta': named}
        weights._metadata['']['dataset_meta'] = named  # type: ignore[attr-defined]
    return {**({} if key is None else checkpoint), 'state_dict': weights, 'meta': meta}


def _told(weights: dict, source: Source) -> OrderedDict:
    metadata = OrderedDict(getattr(weights, '_metadata', {}))
    metadata[''] = {**metadata.get('', {}), 'source': asdict(source)}
    told = OrderedDict(weights)
    told._metadata = metadata  # type: ignore[attr-defined]  # travels to load_state_dict
    return told


def _innermost(weights: Any) -> dict:
    """The state dict in a value that may wrap it, as ``{'module': {...}}``; empty where there is none."""
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
