"""Finds the config to fine-tune and its published weights."""

import difflib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from mmengine.config import Config

from ..checkpoints.files import load_from_http, load_from_local, load_from_torchvision
from ..configs import ROOTS, load_config, packaged
from ..errors import CheckpointError, ConfigError, DownloadError

DEFAULT = 'configs/detr/detr_r50_finetune.py'
OFFICIAL = 'detr_r50_8x2_500e_coco'
PUBLISHED = {'detr_r50_finetune': OFFICIAL, 'detr_r50_finetune_frozen-backbone': OFFICIAL}  # metafile's names
NO_WEIGHTS = 'none'


def find_base(name: str) -> Path:
    """A config by its path, its path in this package (``configs/detr/...``) or its name.

    Raises:
        ConfigError: there is none.
    """
    if Path(name).is_file():
        return Path(name).absolute()
    known = {path.stem: path for root in ROOTS for path in sorted(root.glob('configs/[!_]*/*.py'))}
    path = packaged(name) or known.get(Path(name).stem if '/' not in name else name)
    if path is None:
        near = difflib.get_close_matches(Path(name).stem, known, n=3, cutoff=0.4)
        raise ConfigError(f'no such config: {name}' + (f'; near: {", ".join(near)}' if near else ''))
    return path


def load_base(path: Path, classes: Sequence[str]) -> Config:
    """Read a config that may take the names of the classes from the annotation files that its variables name.

    Raises:
        ConfigError: it cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        categories = [{'id': number, 'name': name} for number, name in enumerate(classes, 1)]
        for split in ('train', 'val'):
            Path(folder, f'{split}.json').write_text(json.dumps({'categories': categories}))
        variables = {'DATA_ROOT': folder, 'TRAIN_JSON': 'train.json', 'VAL_JSON': 'val.json'}
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        logging.disable(logging.INFO)  # mmengine tells each variable
        try:
            return load_config(path)
        finally:
            logging.disable(logging.NOTSET)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def published_weights(base: Path) -> str | None:
    """The address of the weights that the metafile beside a config of this package names for it."""
    metafile = base.parent / 'metafile.yml'
    if not metafile.is_file():
        return None
    name = PUBLISHED.get(base.stem, base.stem)
    models = yaml.safe_load(metafile.read_text())['Models']
    return next((model.get('Weights') for model in models if Path(model['Config']).stem == name), None)


def require_weights(weights: str) -> str:
    """The path, absolute, or the address of weights that can be read; an address is downloaded.

    Raises:
        CheckpointError: they cannot be read or downloaded.
    """
    if '://' not in weights:
        path = Path(weights).expanduser().absolute()
        load_from_local(str(path), 'cpu')
        return str(path)
    try:
        (load_from_torchvision if weights.startswith('torchvision://') else load_from_http)(weights, 'cpu')
    except DownloadError as error:
        raise CheckpointError(f'{error}: download it elsewhere and pass --weights FILE') from error
    return weights
