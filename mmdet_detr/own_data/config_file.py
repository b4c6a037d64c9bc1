"""Turns a config for other data into one for one's own, as plain text that can be edited and trained."""

import copy
import inspect
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..configs import dicts_in
from ..data_check import num_queries_of
from ..datasets.palette import complete_palette
from ..errors import ConfigError, one_line
from .read import OwnData

# What a runner and mmdet's scripts read; the other names of a config are its own variables, useless when resolved.
KNOWN = {
    *inspect.signature(Runner.__init__).parameters,
    *('auto_scale_lr', 'backend_args', 'custom_imports', 'runner_type', 'strategy', 'tta_model', 'tta_pipeline'),
} - {'self', 'cfg'}
WRAPPERS = (
    'MultiImageMixDataset',
    'ClassBalancedDataset',
)  # data sets around another that stay
BATCHES = 10  # steps of an epoch at least, by smaller batches where there are few images
STEPS = 1000  # of a training at least, by more epochs
VALIDATIONS = 25  # of a training at most
FEW_STEPS = 20  # leave no room for a schedule
GB_AN_IMAGE = 4  # of a DETR R50 in training: 7.9 GB for two images (docs/configs.md)
QUERIES_PER_OBJECT = 1.5


def fit_config(
    base: Config,
    data: OwnData,
    annotations: Path,
    images: Path,
    out: Path,
    weights: str | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    device: str | None = None,
) -> tuple[Config, list[str]]:
    """A config that fine-tunes the model of another config on one's own data.

    Args:
        base: a config of a detector of boxes; it is not changed.
        data: the data.
        annotations: folder of ``train.json``, ``val.json`` and perhaps ``test.json``.
        images: folder that the file names of these start from.
        out: folder of the run.
        weights: what to start from.
        epochs: length of the training; None takes that of the base, or as many as make 1000 steps.
        batch: images a step of one process; None takes that of the base, more of them where the GPU has room, and
            fewer where an epoch would have less than ten steps.
        device: 'cpu' for a training that uses no GPU.

    Returns:
        The config without variables of its own, and lines for the user about what was chosen.

    Raises:
        ConfigError: the base trains masks, or lacks a model, data loaders or a training loop; or a name or a path has
            ``{{``.
    """
    config = copy.deepcopy(base.to_dict())
    missing = [key for key in ('model', 'train_dataloader', 'val_dataloader', 'train_cfg') if not config.get(key)]
    if missing:
        raise ConfigError(f'{base.filename} has no {missing[0]} to fine-tune')
    if any(part.get('with_mask') or part.get('mask_head') for part in dicts_in(config)):
        raise ConfigError(f'{base.filename} trains masks; finetune trains boxes')
    notes = [_fit_model(config['model'], data, bool(weights))]
    number = len(data.documents['train']['images'])
    base_batch = config['train_dataloader'].get('batch_size') or 1
    scaling = config.get('auto_scale_lr') or {}
    batch = min(number, batch or _batch(base_batch, scaling.get('base_batch_size') or base_batch, number, device))
    _fit_loaders(config, data, annotations, images, batch)
    epochs = epochs or _epochs(config['train_cfg'], base_batch, batch, number)
    _fit_schedule(config, epochs, max(1, number // batch))
    if 'base_batch_size' in scaling:
        config['auto_scale_lr'] = {**scaling, 'enable': True}
        factor = batch / scaling['base_batch_size']
        notes.append(f'images a step: {batch}, and {factor:g} times the learning rate of {Path(base.filename).stem}')
    notes.append(f'epochs: {epochs}, steps in each: {math.ceil(number / batch)}')
    config |= {'load_from': weights, 'resume': False, 'work_dir': str(out), 'launcher': 'none'}
    config = {key: value for key, value in config.items() if key in KNOWN}
    for text in _texts(config):
        if '{{' in text:
            raise ConfigError(f'{text!r} cannot stand in a config, where mmengine replaces {{{{...}}}}: rename it')
    return Config(config), [note for note in notes if note]


def write_config(config: Config, data: OwnData, path: Path) -> None:
    """Write the config as a file."""
    splits = ', '.join(f'{len(document["images"])} {split}' for split, document in data.documents.items())
    command = f'mim train mmdet_detr {path.name} --gpus 1 --work-dir ../again'
    head = f'# {one_line(data.root.name)}: {splits} images. Edit this file, and run: {command}\n'
    path.write_text(head + config.pretty_text, encoding='utf-8')


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        yield from _texts(one)


def _fit_model(model: dict[str, Any], data: OwnData, weights: bool) -> str:
    """Set classes and queries; where weights are loaded, leave out those that parts would load."""
    queries, needed = num_queries_of(model), data.most_objects
    wanted = queries
    if queries and needed > 0.8 * queries:
        wanted = math.ceil(QUERIES_PER_OBJECT * needed / 10) * 10
    for part in dicts_in(model):
        if 'num_classes' in part:
            part['num_classes'] = len(data.classes)
        if 'num_queries' in part or str(part.get('type')).endswith(('QueryGroups', 'TransformerNeck')):
            part['num_queries'] = wanted
        if isinstance(part.get('max_per_img'), int):
            part['max_per_img'] = max(part['max_per_img'], wanted or needed)
        if weights and (part.get('init_cfg') or {}).get('type') == 'Pretrained':
            part['init_cfg'] = None
    return '' if wanted == queries else f'{wanted} queries instead of {queries}: an image has {needed} objects'


def _batch(base: int, scheduled: int, images: int, device: str | None) -> int:
    batch = base
    if device != 'cpu' and torch.cuda.is_available():
        room = torch.cuda.mem_get_info()[0] / 1e9 / GB_AN_IMAGE
        while 2 * batch <= min(room, scheduled):
            batch *= 2
    return max(1, min(batch, images // BATCHES))


def _fit_loaders(config: dict[str, Any], data: OwnData, annotations: Path, images: Path, batch: int) -> None:
    config.setdefault('test_dataloader', None)
    config['test_dataloader'] = config['test_dataloader'] or copy.deepcopy(config['val_dataloader'])
    metainfo = {'classes': data.classes, 'palette': complete_palette((), len(data.classes))}
    for split in ('train', 'val', 'test'):
        file = annotations / f'{split if split in data.documents else "val"}.json'
        loader = config[f'{split}_dataloader']
        mine: dict[str, Any] = {
            'type': 'mmdet_detr.RobustCocoDataset',
            'ann_file': str(file),
            'data_prefix': {'img': f'{images}/'},
            'metainfo': metainfo,
        }
        mine |= {'filter_cfg': {'filter_empty_gt': False}} if split == 'train' else {'test_mode': True}
        loader['dataset'] = _replaced(loader['dataset'], mine)
        if split != 'train':
            config[f'{split}_evaluator'] = {'type': 'CocoMetric', 'ann_file': str(file), 'metric': 'bbox'}
            config[f'{split}_cfg'] = {'type': 'ValLoop' if split == 'val' else 'TestLoop'}
    loader = config['train_dataloader']
    loader['batch_size'] = batch
    for part in dicts_in(loader.get('sampler')):
        if part.get('type') == 'InfiniteSampler':
            part['type'] = 'DefaultSampler'


def _replaced(dataset: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """One's own data in the place of those of a data set, with its pipeline."""
    inner: Any = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
    if inner is None:
        return {**mine, 'pipeline': dataset.get('pipeline', [])}
    if dataset['type'] in WRAPPERS:
        return {**dataset, 'dataset': _replaced(inner, mine)}
    return _replaced(inner, mine)


def _epochs(loop: dict[str, Any], base_batch: int, batch: int, images: int) -> int:
    if 'max_iters' in loop:  # as many steps as those of the base, or as many images if that is less
        return max(1, min(round(loop['max_iters'] * base_batch / images), loop['max_iters'] // max(1, images // batch)))
    return max(loop['max_epochs'], math.ceil(STEPS * batch / images))


def _fit_schedule(config: dict[str, Any], epochs: int, steps: int) -> None:
    """Count in epochs what the base counts in epochs or in iterations."""
    loop = config['train_cfg']
    total = epochs * steps
    schedulers = config.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    if total < FEW_STEPS:
        config['param_scheduler'] = []
    elif 'max_iters' in loop:
        config['param_scheduler'] = [_from_iterations(one, loop['max_iters'], epochs, steps) for one in schedulers]
    else:
        config['param_scheduler'] = [_from_epochs(one, loop['max_epochs'], epochs, total) for one in schedulers]
    interval = max(1, epochs // VALIDATIONS)
    config['train_cfg'] = {'type': 'EpochBasedTrainLoop', 'max_epochs': epochs, 'val_interval': interval}
    hooks = config.setdefault('default_hooks', {})
    hooks['checkpoint'] = {
        'type': 'CheckpointHook',
        **(hooks.get('checkpoint') or {}),
        'by_epoch': True,
        'interval': interval,
        'max_keep_ckpts': 1,
        'save_best': 'coco/bbox_mAP',
        'rule': 'greater',
    }
    config['log_processor'] = {**(config.get('log_processor') or {'type': 'LogProcessor'}), 'by_epoch': True}


def _from_iterations(scheduler: dict[str, Any], max_iters: int, epochs: int, steps: int) -> dict[str, Any]:
    def in_epochs(iterations: int) -> float:
        return 0 if not iterations else max(round(iterations / max_iters * epochs, 2), 2 / steps)

    scaled = {**scheduler, 'by_epoch': True, 'convert_to_iter_based': True}
    scaled |= {key: in_epochs(scheduler[key]) for key in ('begin', 'end', 'T_max') if scheduler.get(key)}
    if 'milestones' in scheduler:
        scaled['milestones'] = _whole(in_epochs(milestone) for milestone in scheduler['milestones'])
    return scaled


def _from_epochs(scheduler: dict[str, Any], max_epochs: int, epochs: int, total: int) -> dict[str, Any]:
    if not scheduler.get('by_epoch', True):  # a warm-up
        return {**scheduler, 'end': max(2, min(scheduler.get('end', total), total // 10))}
    scaled = dict(scheduler)
    for key in ('begin', 'end', 'T_max'):
        if scheduler.get(key):
            scaled[key] = max(1, round(scheduler[key] * epochs / max_epochs))
    if 'milestones' in scheduler:
        scaled['milestones'] = _whole(milestone * epochs / max_epochs for milestone in scheduler['milestones'])
    return scaled


def _whole(epochs: Iterable[float]) -> list[int]:
    return sorted({max(1, round(epoch)) for epoch in epochs})
