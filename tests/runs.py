"""Trainings of a few iterations, and what interrupts them."""

import os
import signal
from collections.abc import Callable

import pytest
import torch
from helpers import shapes_config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet_detr.engine.preemption_hook import EXIT_CODE


def seeded(sampler: str) -> dict:
    return {
        '_delete_': True,
        'type': 'mmdet_detr.SeededSampler',
        'sampler': {'type': sampler, 'shuffle': True},
    }


SEEDED = {'randomness': {'seed': 5}}
ROBUST = {
    'train_dataloader.dataset.type': 'mmdet_detr.RobustCocoDataset',
    'default_hooks.checkpoint.type': 'mmdet_detr.AtomicCheckpointHook',
    'custom_hooks': [{'type': 'mmdet_detr.ReproducibleHook'}, {'type': 'mmdet_detr.PreemptionHook'}],
    'model.neck.dropout': 0.1,
}
BY_ITERATION = {
    **ROBUST,
    'train_dataloader.sampler': seeded('InfiniteSampler'),
    'train_cfg.max_iters': 9,
    'train_cfg.val_interval': 4,
    'default_hooks.checkpoint.interval': 4,
}
BY_EPOCH = {
    **ROBUST,
    'train_dataloader.sampler': seeded('DefaultSampler'),
    'train_cfg': {'_delete_': True, 'type': 'EpochBasedTrainLoop', 'max_epochs': 3, 'val_interval': 1},
    'default_hooks.checkpoint': {'_delete_': True, 'type': 'mmdet_detr.AtomicCheckpointHook', 'interval': 1},
    'log_processor.by_epoch': True,
}


class At(Hook):
    """Does something after an iteration."""

    def __init__(self, iteration: int, action: Callable[[], None]) -> None:
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            self.action()


class InValidation(Hook):
    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def before_val(self, runner):
        self.action()


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def train(shapes, work_dir, options, *hooks: Hook, **more) -> dict[str, torch.Tensor]:
    runner = Runner.from_cfg(shapes_config(shapes, work_dir, **{**options, **more}))
    for hook in hooks:
        runner.register_hook(hook)
    return runner.train().state_dict()


def interrupted(shapes, work_dir, options, *hooks: Hook, **more) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(shapes, work_dir, options, *hooks, **more)
    assert ended.value.code == EXIT_CODE
    assert signal.getsignal(signal.SIGTERM) is before


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())
