"""Read checkpoints from files, Hugging Face folders and addresses, without running code from them."""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlparse

import mmengine
import safetensors.torch
import torch
from mmengine.dist import barrier, get_rank
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torchvision_models

from ..errors import CheckpointError, CheckpointNotFoundError, DownloadError, one_line
from .pickles import MapLocation, load_pickle
from .source import Source, facts_of, with_source

TORCHVISION = Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json'  # names and addresses
HUGGING_FACE_FILES = ('model.safetensors', 'pytorch_model.bin')


def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Read a file or a Hugging Face folder, for mmengine's ``CheckpointLoader``.

    The content decides how a file is read, not its name: safetensors, or ``torch.save`` with nothing but tensors,
    plain Python values and the few types that training scripts store.

    Returns:
        The content. If it is a DETR's, its weights are under mmengine's ``state_dict``, at whatever key the file has
        them, and ``meta`` holds the class names of a Hugging Face folder. The metadata of the weights hold their
        :class:`~mmdet_detr.checkpoints.source.Source`.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged, or would run code.
    """
    path = Path(filename).expanduser()
    if not path.exists():
        raise CheckpointNotFoundError(f'no such file: {path}')
    file = _file_in(path) if path.is_dir() else path
    config = file.parent / 'config.json'
    facts = facts_of(_read_config(config)) if file.name in HUGGING_FACE_FILES and config.is_file() else {}
    return with_source(_read_file(file, map_location), Source(str(path), **facts))


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Download a file into torch's cache, once, and read it as :func:`load_from_local` does.

    Raises:
        DownloadError: it cannot be downloaded.
    """
    address = urlparse(filename)
    name = Path(address.path).name
    if not re.search(r'-[0-9a-f]{8,}\.', name):  # without a hash, a name such as model.safetensors is not unique
        name = re.sub(r'[^\w.-]', '--', f'{address.netloc}{Path(address.path)}')
    cached = Path(torch.hub.get_dir()) / 'checkpoints' / name
    first = int(os.environ.get('LOCAL_RANK', get_rank())) == 0
    for turn in (first, not first):  # the first process of a machine downloads before the others look
        if turn and not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(filename, str(cached))
            except OSError as error:
                raise DownloadError(f'{filename} cannot be downloaded ({one_line(error)})') from error
        barrier()
    return load_from_local(str(cached), map_location)


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> dict:
    """Download ``torchvision://NAME`` and read it as :func:`load_from_local` does.

    Without torchvision, the names are those of mmengine's own table, such as ``resnet50``.

    Raises:
        CheckpointNotFoundError: there is no such name.
    """
    name = filename.split('://')[1]
    try:
        addresses = get_torchvision_models()
    except ImportError:
        addresses = json.loads(TORCHVISION.read_text())
    if name not in addresses:
        raise CheckpointNotFoundError(f'no weights {filename}: torchvision, if installed, knows more names')
    return load_from_http(addresses[name], map_location)


def register_loaders() -> None:
    """Make mmengine read files, addresses and torchvision's models through this module, for every model."""
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    CheckpointLoader.register_scheme(('torchvision://', 'modelzoo://'), load_from_torchvision, force=True)


def _file_in(folder: Path) -> Path:
    for name in HUGGING_FACE_FILES:
        if (folder / name).is_file():
            return folder / name
        if (folder / f'{name}.index.json').is_file():
            raise CheckpointError(f'{folder} holds {name} in several parts: save it in one')
    raise CheckpointError(f'{folder} is a folder without {" or ".join(HUGGING_FACE_FILES)}: name the file')


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f'{path} is no JSON: {error}') from error
    if not isinstance(config, dict):
        raise CheckpointError(f'{path} holds no configuration')
    return config


def _read_file(path: Path, map_location: MapLocation) -> dict:
    with path.open('rb') as file:
        head = file.read(9)
    if not head:
        raise CheckpointError(f'{path} is empty: copy or download it again')
    try:
        if head[8:] == b'{':  # safetensors: the header's length in 8 bytes, then the header, which is JSON
            tensors = safetensors.torch.load_file(path)
            device = map_location if isinstance(map_location, (str, torch.device)) else 'cpu'
            return {name: value.to(device) for name, value in tensors.items()}
        checkpoint = load_pickle(path, map_location)
    except CheckpointError:
        raise
    except Exception as error:  # reading a damaged file can raise anything
        reason = (str(error).splitlines() or [''])[0][:200]
        raise CheckpointError(f'{path} is no checkpoint, or is damaged: {reason}') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__} and no weights')
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)  # old versions of mmengine store it, and would run it to resume
    return checkpoint
