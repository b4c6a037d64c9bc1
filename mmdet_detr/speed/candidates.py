"""Build the detectors to compare from their configs."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint

from ..configs import dicts_in, forget_pretrained, load_config
from ..errors import ConfigError, one_line
from ..export.exported_detector import ExportedDetector
from ..export.formats import SUFFIXES


@dataclass
class Candidate:
    """A detector, ready to be measured."""

    name: str
    path: str
    config: Config
    model: Any  # mmdet's BaseDetector, or transformers' DETR in its form
    device: torch.device
    dtype: torch.dtype

    @property
    def with_masks(self) -> bool:
        """Whether the detector trains on masks."""
        return getattr(self.model, 'with_mask', False)

    @property
    def exported(self) -> bool:
        """Whether it is an exported file, which cannot be trained or counted."""
        return isinstance(self.model, ExportedDetector)

    @property
    def precision(self) -> AbstractContextManager:
        """The context in which the model computes."""
        plain = self.exported or self.dtype == torch.float32
        return nullcontext() if plain else torch.autocast(self.device.type, self.dtype)


def names_of(paths: list[str]) -> list[str]:
    """Names in tables: the file's name, after the package if there is one; equal names get numbers."""
    names = [f'{path.split("::")[0]}::{Path(path).stem}' if '::' in path else _file_name(path) for path in paths]
    return [f'{name} ({names[: i + 1].count(name)})' if names.count(name) > 1 else name for i, name in enumerate(names)]


def is_exported(path: str) -> bool:
    """Whether a path names an exported file instead of a config."""
    return Path(path).suffix in SUFFIXES


def _file_name(path: str) -> str:
    return Path(path).name if is_exported(path) else Path(path).stem


def read_config(path: str) -> Config:
    """A config by its path, or one that a package of OpenMMLab's brings along, as ``mmdet::detr/NAME.py``.

    That of an exported file is a model that predicts by it.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it has no model.
    """
    if is_exported(path):
        return Config({'model': {'type': 'mmdet_detr.ExportedDetector', 'path': path, 'threads': 0}})
    if '::' in path:
        try:
            config = get_config(path)
        except Exception as error:  # mmengine raises many kinds
            raise ConfigError(f'no such config: {path} ({one_line(error)[:400]})') from error
    else:
        config = load_config(path)
    if 'model' not in config:
        raise ConfigError(f'{path} is no config of a detector: it has no model')
    return config


def build(path: str, checkpoint: str | None, device: str, dtype: torch.dtype, name: str = '') -> Candidate:
    """Build a detector. Without a checkpoint its weights are random, and nothing is downloaded.

    An exported file computes in its own type, whatever ``dtype`` is.

    Raises:
        ConfigError: the device or a file is missing, or the model cannot be built here.
    """
    if torch.device(device).type not in ('cpu', 'cuda'):
        raise ConfigError(f'--device {device} is neither cpu nor cuda')
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ConfigError(f'no CUDA device, which --device {device} asks for')
    if checkpoint and '://' not in checkpoint and not Path(checkpoint).is_file():
        raise ConfigError(f'no such file: {checkpoint}')
    if is_exported(path) and (device != 'cpu' or checkpoint):
        raise ConfigError(f'{path} is an exported file, which is measured on a CPU and has its own weights')
    config = read_config(path)
    init_default_scope(config.get('default_scope', 'mmdet'))
    torch.manual_seed(0)
    forget_pretrained(config.model)
    model = MODELS.build(config.model)
    if isinstance(model, ExportedDetector):
        dtype = getattr(torch, model.metadata['precision'])
    elif checkpoint:
        load_checkpoint(model, checkpoint, map_location='cpu')
    elif hasattr(model, 'init_weights'):
        model.init_weights()
    return Candidate(name or names_of([path])[0], path, config, model.to(device), torch.device(device), dtype)


def num_classes(model: ConfigDict) -> int:
    """The smallest number of classes in the config of a model; 80 if there is none."""
    numbers = (part.get('num_classes') for part in dicts_in(model))
    return min((number for number in numbers if isinstance(number, int)), default=80)


def reason(error: BaseException) -> str:
    """Why a detector cannot be measured, in one line."""
    clear = isinstance(error, (ConfigError, ImportError))  # an ImportError names the operator that is missing
    return one_line(error)[:400] if clear else f'{type(error).__name__}: {one_line(error)[:400]}'
