"""Saves a checkpoint when a cluster sends a signal before it takes the machine away."""

import signal
import threading
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from ..errors import ConfigError
from ..log import warn
from ..registry import HOOKS
from .atomic_checkpoint_hook import AtomicCheckpointHook

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name)]  # no SIGUSR1 on Windows
SAVE, STOP = 1, 2  # requests: with several, the highest counts


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On SIGTERM, saves a checkpoint and ends the process with exit code 75. On SIGUSR1, saves one and continues.

    The hook acts at the end of the iteration; with accumulated gradients, at the end of the optimizer step. A signal
    that reaches one rank counts for all ranks. During validation, the hook saves the state after the last training
    iteration, and the resumed run does not repeat the validation. With several ranks, the validation ends first.

    Raises:
        ConfigError: in training, if the checkpoint hook is not an :class:`AtomicCheckpointHook`.
        SystemExit: in training, after the checkpoint for SIGTERM is saved.
    """

    priority = 'LOWEST'  # after the schedulers' step and the regular checkpoint

    def __init__(self) -> None:
        self._received = 0
        self._before: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        found = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        if not found:
            raise ConfigError("PreemptionHook needs default_hooks.checkpoint.type='mmdet_detr.AtomicCheckpointHook'")
        self._checkpoints = found[0]
        self._received = 0
        if threading.current_thread() is not threading.main_thread():
            warn('PreemptionHook has no effect: training runs in a thread, and only the main thread receives signals')
            return
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)

    def after_train(self, runner: Runner) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # A checkpoint does not hold accumulated gradients, so it waits for the step that uses them.
        if getattr(runner.optim_wrapper, 'should_update', lambda: True)():
            self._act(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # Ranks may have different numbers of validation batches, so they cannot wait for each other here.
        if self._received and get_world_size() == 1:
            averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
            for hook in averages:  # the model holds averaged weights during validation: take them out to save
                hook.after_val_epoch(runner)
            self._act(runner, runner.iter)
            for hook in averages:
                hook.before_val_epoch(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self._before:
            self._act(runner, runner.iter)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = max(self._received, STOP if number == signal.SIGTERM else SAVE)

    def _act(self, runner: Runner, iteration: int) -> None:
        received, self._received = self._received, 0
        if get_world_size() > 1:
            everywhere = torch.tensor(received)
            all_reduce(everywhere, 'max')
            received = int(everywhere)
        if received:
            path = self._checkpoints.save_now(runner, runner.epoch, iteration)
            if received == STOP:
                warn(f'SIGTERM: saved {path}; start the training again with --resume to continue from it')
                self.after_train(runner)
                raise SystemExit(EXIT_CODE)
            runner.logger.info(f'SIGUSR1: saved {path}')
