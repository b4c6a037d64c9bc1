"""Detectors that are to be compared, built from their configs."""

from collections.abc import Iterator
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

from ..errors import ConfigError


@dataclass
class Candidate:
    """A detector, ready to be measured."""

    name: str
    config: Config
    model: Any  # a detector of mmdet's making
    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> AbstractContextManager:
        """The context in which the model computes."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)


def names_of(paths: list[str]) -> list[str]:
    """What tables call configs: their files' names, with the package that brings one along, numbered where equal."""
    names = [f'{path.split("::")[0]}::{Path(path).stem}' if '::' in path else Path(path).stem for path in paths]
    return [f'{name} ({names[: i + 1].count(name)})' if names.count(name) > 1 else name for i, name in enumerate(names)]


def read_config(path: str) -> Config:
    """A config by its path, or one that a package of OpenMMLab's brings along, as ``mmdet::detr/NAME.py``.

    Raises:
        ConfigError: there is no such file, or it has no model.
    """
    if '::' in path:
        try:
            config = get_config(path)
        except Exception as error:  # mmengine raises many kinds
            raise ConfigError(f'no such config: {path} ({one_line(error)})') from error
    elif not Path(path).is_file():
        raise ConfigError(f'no such file: {path}')
    else:
        config = Config.fromfile(path)
    if 'model' not in config:
        raise ConfigError(f'{path} is no config of a detector: it has no model')
    return config


def build(path: str, checkpoint: str | None, device: str, dtype: torch.dtype, name: str = '') -> Candidate:
    """Build a detector; without a checkpoint its weights are random and nothing is fetched.

    Raises:
        ConfigError: the device or a file is missing, or the model cannot be built here.
    """
    if torch.device(device).type not in ('cpu', 'cuda'):
        raise ConfigError(f'--device {device} is neither cpu nor cuda')
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ConfigError(f'no CUDA device, which --device {device} asks for')
    if checkpoint and '://' not in checkpoint and not Path(checkpoint).is_file():
        raise ConfigError(f'no such file: {checkpoint}')
    config = read_config(path)
    init_default_scope(config.get('default_scope', 'mmdet'))
    torch.manual_seed(0)
    forget_pretrained(config.model)
    model = MODELS.build(config.model)
    if checkpoint:
        load_checkpoint(model, checkpoint, map_location='cpu')
    elif hasattr(model, 'init_weights'):
        model.init_weights()
    return Candidate(name or names_of([path])[0], config, model.to(device), torch.device(device), dtype)


def parts(node: Any) -> Iterator[dict]:
    """The dicts of a config, from the outermost on."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, (dict, list, tuple)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from parts(value)


def forget_pretrained(model: ConfigDict) -> None:
    """Drop the addresses of pretrained weights from the config of a model."""
    for part in parts(model):
        part.pop('pretrained', None)
        if isinstance(part.get('init_cfg'), dict) and 'checkpoint' in part['init_cfg']:  # PVT names no type
            part['init_cfg'] = None


def num_classes(model: ConfigDict) -> int:
    """The smallest number of classes that the config of a model names, 80 where it names none."""
    return min((part['num_classes'] for part in parts(model) if isinstance(part.get('num_classes'), int)), default=80)


def reason(error: BaseException) -> str:
    """Why a detector cannot be measured, in one line."""
    ours = isinstance(error, (ConfigError, ImportError))  # the latter tells which operator is missing
    return one_line(error) if ours else f'{type(error).__name__}: {one_line(error)}'


def one_line(error: BaseException) -> str:
    return ' '.join(str(error).split())[:400]
