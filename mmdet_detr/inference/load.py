"""Make a detector from a checkpoint, without running code from the file."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader

from ..checkpoints.architecture import architecture_of, config_for
from ..checkpoints.class_rows import COCO_NAMES, PUBLISHED
from ..checkpoints.config_text import parse_config
from ..checkpoints.files import HUGGING_FACE_FILES
from ..checkpoints.fit import CLASS_ROWS, QUERIES
from ..checkpoints.layouts import with_mask_head
from ..checkpoints.whole import whole_detr
from ..compat.terminal import quiet_imports
from ..configs import load_config, packaged
from ..datasets.palette import complete_palette
from ..errors import CheckpointError, ConfigError, one_line
from ..runs import find_checkpoint, find_config
from ..safe_config import code_forbidden, require_safe_values
from .detector import Detector

CONFIG_SUFFIXES = ('.py', '.json', '.yaml', '.yml')


@quiet_imports()  # building a model imports more of mmdet
def load(weights: str | Path, config: str | Path | Config | None = None, device: str | None = None) -> Detector:
    """Make a detector from a checkpoint.

    Without ``config``, the one in the checkpoint is used: model, test pipeline and class names are read from it as
    data, and it may name registered types only. A published DETR (facebookresearch/detr, Hugging Face, mmdet 2.x)
    holds no config; its sizes are read from its tensors, and the packaged config of these sizes is used.

    Args:
        weights: a checkpoint: a file, an address or a Hugging Face folder; or the folder of a run, for its best
            checkpoint, or else its last.
        config: a config that you trust, because a Python config is a program. It goes before the one in the checkpoint.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; by default the GPU if there is one.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, would run code, or does not fit the config.
        ConfigError: there is no config for it, or the model cannot be built from it.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f'there is no device {device}: {one_line(error)}') from error
    path, run = _locate(str(weights))
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    if config is not None:
        return _build(config if isinstance(config, Config) else load_config(config), checkpoint, path, device)
    values = _values_in(checkpoint)
    if values is not None:
        try:
            require_safe_values(f'the config in {path}', values)
            with code_forbidden():
                return _build(Config(values), checkpoint, path, device)
        except ConfigError as error:
            if run is None:
                raise ConfigError(f'{error}; name a config that you trust by config=') from error
    cfg = _packaged_config(checkpoint, path) if run is None else load_config(find_config(run))
    return _build(cfg, checkpoint, path, device)


def _locate(weights: str) -> tuple[str, Path | None]:
    """The checkpoint, and the folder of its run if that was given."""
    if Path(weights).suffix in CONFIG_SUFFIXES:
        raise ConfigError(f"{weights} is a config: name the weights first, load('weights.pth', config={weights!r})")
    folder = Path(weights).expanduser()
    if not folder.is_dir() or any((folder / name).exists() for name in HUGGING_FACE_FILES):
        return weights, None
    return str(find_checkpoint(folder)), folder


def _values_in(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """What a detector needs of the config in a checkpoint; None if there is none, or a part could not be data."""
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    values = parse_config(text) if isinstance(text, str) else {}
    if not all(isinstance(values.get(key), dict) for key in ('model', 'test_dataloader')):
        return None
    return {key: values[key] for key in ('model', 'test_dataloader', 'default_scope') if key in values}


def _packaged_config(checkpoint: dict[str, Any], path: str) -> Config:
    """The packaged config for a published DETR, with the number of classes and queries of the checkpoint."""
    try:
        named, source = whole_detr(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f'{error}, and holds no config: name its config by config=') from None
    sizes = architecture_of(named.weights)
    dilated = source.dilated if source.dilated is not None else 'dc5' in Path(path).name.lower()
    name = config_for(sizes, dilated, masks=with_mask_head(named.weights))
    if name is None:
        raise ConfigError(f'{path} holds no config, and is no published DETR, but {sizes}: name its config by config=')
    config = load_config(packaged(name) or name)
    num_outputs = len(named.weights[CLASS_ROWS[0]]) - 1
    coco = source.classes is None or set(COCO_NAMES) <= set(source.classes)
    if not (num_outputs in PUBLISHED and coco):
        classes = source.classes or tuple(f'class {i}' for i in range(num_outputs))
        config.model.bbox_head.num_classes = num_outputs
        config.test_dataloader.dataset.metainfo = {'classes': classes}
    config.model.neck.num_queries = len(named.weights[f'neck.{QUERIES}'])
    if named.layout.name.startswith('mmdet'):  # trained on other pixels, see docs/checkpoints.md
        pipeline = config.test_dataloader.dataset.pipeline
        at = next(i for i, step in enumerate(pipeline) if 'Resize' in step.type)
        pipeline[at] = {'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True}
    return config


def _build(config: Config, checkpoint: dict[str, Any], path: str, device: str) -> Detector:
    for key in ('model', 'test_dataloader'):
        if not isinstance(config.get(key), dict):
            raise ConfigError(f'the config of {path} has no {key}')
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')), _built_from(path):
        model = revert_sync_batchnorm(MODELS.build(_without_init(copy.deepcopy(config.model))))
    _load_weights(model, checkpoint, path)
    meta = _names_and_colours(config, checkpoint)
    classes, palette = meta.get('classes'), meta.get('palette')
    if not classes:
        raise ConfigError(f'neither {path} nor its config names classes: name a config with metainfo by config=')
    model.cfg, model.dataset_meta = config, meta  # mmdet's inference reads them
    model.to(device)
    whole = isinstance(palette, list | tuple) and len(palette) >= len(classes)
    colours = complete_palette(palette or (), len(classes)) if whole else None
    with _built_from(path):
        return Detector(model, config, classes, colours)


@contextlib.contextmanager
def _built_from(path: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # constructors raise anything on wrong arguments
        raise ConfigError(f'the detector of {path} cannot be built: {one_line(error)}') from error


def _without_init(model: Config) -> dict[str, Any]:
    """The model without ``init_cfg`` of its backbone, as mmdet's ``init_detector`` builds it."""
    backbone = model.get('backbone')
    return {**model, 'backbone': {**backbone, 'init_cfg': None}} if isinstance(backbone, dict) else {**model}


def _load_weights(model: BaseModel, checkpoint: dict[str, Any], path: str) -> None:
    state_dict = checkpoint.get('state_dict', checkpoint)
    try:
        missing = model.load_state_dict(state_dict, strict=False).missing_keys
    except RuntimeError as error:
        raise CheckpointError(f'{path} does not fit the model: {one_line(error)}') from error
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing:
        raise CheckpointError(f'{path} does not fit the model: it lacks {missing[0]} and {len(missing) - 1} more')


def _names_and_colours(config: Config, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Metainfo of the checkpoint, or else of the data set in the config."""
    dataset = config.test_dataloader.get('dataset') or {}
    while 'metainfo' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    kind = None
    # The data set itself is not needed, so it may be of a package that is not there.
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')), contextlib.suppress(Exception):
        kind = DATASETS.get(dataset.get('type'))
    in_config = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    found = meta.get('dataset_meta') or ({'classes': meta['CLASSES']} if 'CLASSES' in meta else in_config)
    found = {str(key).lower(): value for key, value in found.items()}
    if isinstance(found.get('classes'), str):
        found['classes'] = (found['classes'],)
    if 'palette' not in found and 'palette' in in_config and len(in_config['palette']) >= len(found['classes']):
        found['palette'] = in_config['palette']
    return found
