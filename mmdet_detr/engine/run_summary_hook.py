"""Says at the start of a training what is trained, and at its end what came out and what to do next."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..compat.terminal import shorten_reports
from ..log import warn
from ..registry import HOOKS

MAX_NAMES = 6  # classes that the line names
AP = 'coco/bbox_mAP'  # its name in the log


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Logs a summary of a training, in a few lines, before its first iteration and after its last.

    Before: the config, the data (images, objects, classes), the model, the device, the images of a step, the schedule,
    and where the log is; and a warning where a frozen part of the backbone has random weights. After: the best AP, its
    checkpoint, and the command that draws the run.

    Args:
        brief: say before in one line what ``finetune`` has not said, and show two lines of the report on the weights,
            which is whole in the log file.
    """

    priority = 'LOWEST'  # the last checkpoint is written by then

    def __init__(self, brief: bool = False) -> None:
        self._brief = brief

    def before_run(self, runner: Runner) -> None:
        if self._brief:
            shorten_reports(runner.logger)

    def before_train(self, runner: Runner) -> None:
        self._warn_about_random_weights(runner)
        if self._brief:
            log = _shown(runner.logger.log_file)
            runner.logger.info(f'Training {_model(runner)}, on {_device(runner)}; log: {log}')
            return
        train = runner.train_dataloader.dataset
        rows = {
            'config': runner.cfg.filename or 'without a file',
            'training': f'{_data(train)}, {_classes(getattr(train, "metainfo", {}).get("classes", ()))}',
            'validation': 'none' if runner.val_loop is None else _data(runner.val_dataloader.dataset),
            'model': _model(runner),
            'device': _device(runner),
            'schedule': _schedule(runner),
            'folder': _shown(runner.work_dir),
            'log': f'{_shown(runner.logger.log_file)}, every loss in vis_data/scalars.json beside it',
        }
        lines = [f'  {name:<12}{text}' for name, text in rows.items()]
        runner.logger.info('\n'.join([f'Training {runner.experiment_name}', *lines]))

    def after_train(self, runner: Runner) -> None:
        hub = runner.message_hub
        known, result = hub.runtime_info, ''
        if 'best_ckpt' in known and 'best_score' in known:
            checkpoint = known['best_ckpt']
            name = 'AP' if f'best_{AP.replace("/", "_")}_' in os.path.basename(checkpoint) else 'result'
            result = f'Best {name} {known["best_score"]:.3f}: '
        else:
            checkpoint = known.get('last_ckpt')
            if f'val/{AP}' in hub.log_scalars:
                result = f'Last AP {hub.get_scalar(f"val/{AP}").current():.3f}: '
        if checkpoint:
            runner.logger.info(f'{result}{_shown(checkpoint)}')
        command = f'mim run mmdet_detr evaluate {_shown(runner.work_dir)}'
        runner.logger.info(f'Next: {command} (or report: its curve; or predict: other pictures)')

    def _warn_about_random_weights(self, runner: Runner) -> None:
        backbone = getattr(_unwrapped(runner.model), 'backbone', None)
        if runner._load_from or runner._resume or not isinstance(backbone, nn.Module):
            return
        if not _is_pretrained(_unwrapped(runner.model)) and not _is_pretrained(backbone) and _is_frozen(backbone):
            warn(
                'Without load_from all weights start random, also those of the backbone (init_cfg=None), whose frozen '
                'parts stay so: add load_from=CHECKPOINT to --cfg-options.'
            )


def _shown(path: str) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return path if relative.startswith('..') else relative


def _unwrapped(model: nn.Module) -> Any:
    return model.module if is_model_wrapper(model) else model


def _is_pretrained(module: nn.Module) -> bool:
    given = getattr(module, 'init_cfg', None) or ()
    return any(one.get('type') == 'Pretrained' for one in ([given] if isinstance(given, dict) else given))


def _is_frozen(backbone: nn.Module) -> bool:
    return any(not parameter.requires_grad for parameter in backbone.parameters())


def _data(dataset: Any) -> str:
    """File, images and objects of a data set, as far as it says them."""
    path = getattr(dataset, 'ann_file', '') or type(dataset).__name__
    counted = hasattr(dataset, 'num_objects') and dataset._indices is None  # not of a part of it
    objects = f', {dataset.num_objects} objects' if counted else ''
    return f'{_shown(path)}: {len(dataset)} images{objects}'


def _classes(names: Iterable[str]) -> str:
    shown = list(names)
    more = f' and {len(shown) - MAX_NAMES} more' if len(shown) > MAX_NAMES else ''
    return f'{_count(len(shown), "class", "es")} ({", ".join(shown[:MAX_NAMES])}{more})'


def _model(runner: Runner) -> str:
    model = _unwrapped(runner.model)
    trained, frozen = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad is trains) / 1e6
        for trains in (True, False)
    )
    more = f' and {frozen:.1f} M frozen' if frozen else ''
    shard = ' on this rank' if 'FullySharded' in type(runner.model).__name__ else ''
    return f'{type(model).__name__}, {trained:.1f} M parameters{shard}{more}, {_start(runner, model)}'


def _start(runner: Runner, model: nn.Module) -> str:
    if runner._resume and runner._has_loaded:
        return f'resumed after iteration {runner.iter}'
    if runner._load_from:
        return f'from {runner._load_from}'
    return 'from a pretrained backbone' if _is_pretrained(getattr(model, 'backbone', model)) else 'from random weights'


def _device(runner: Runner) -> str:
    device = next(runner.model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    loader = runner.train_dataloader
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None) or 1
    step = batch * runner.world_size * getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return f'{runner.world_size} x {name}, {_count(step, "image")} a step'


def _schedule(runner: Runner) -> str:
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    iterations = _count(len(runner.train_dataloader) if by_epoch else runner.max_iters, 'iteration')
    length = f'{_count(runner.max_epochs, "epoch")} of {iterations}' if by_epoch else iterations
    if runner.val_loop is not None:
        length += f', validation every {_count(runner.val_interval, "epoch" if by_epoch else "iteration")}'
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    rates = sorted({group.get('initial_lr', group['lr']) for group in optimizer.param_groups}) if optimizer else []
    used = f'; {type(optimizer).__name__} at {" and ".join(f"{rate:g}" for rate in rates)}' if rates else ''
    return f'{length}{used}'


def _count(number: int, unit: str, plural: str = 's') -> str:
    return f'{number} {unit}{"" if number == 1 else plural}'
