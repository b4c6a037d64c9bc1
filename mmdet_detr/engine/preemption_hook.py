"""What a cluster says before it takes the machine away."""

import signal
import threading
from collections.abc import Sequence
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
SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name)]  # Windows has one


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves a checkpoint on SIGTERM and ends the process with exit code 75; saves and goes on on SIGUSR1.

    A signal waits for the end of its iteration, or for the step, where the gradients of several make one. A signal that
    reaches a single rank counts for all. During validation the checkpoint is that after the last iteration, and the
    validation is not repeated on resume; several ranks finish it first. Needs an :class:`AtomicCheckpointHook`.
    """

    priority = 'LOWEST'  # after schedulers and regular checkpoints

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
            warn('PreemptionHook: training runs in a thread, which cannot receive signals')
            return
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)

    def after_train(self, runner: Runner) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None, outputs: Any = None
    ) -> None:
        if getattr(runner.optim_wrapper, 'should_update', lambda: True)():  # gradients so far are in no checkpoint
            self._act(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None, outputs: Any = None
    ) -> None:
        if self._received and get_world_size() == 1:  # ranks may have different numbers of batches here
            averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
            for hook in averages:  # which puts averaged weights into the model for the validation
                hook.after_val_epoch(runner)
            self._act(runner, runner.iter)
            for hook in averages:
                hook.before_val_epoch(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self._before:
            self._act(runner, runner.iter)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = max(self._received, 2 if number == signal.SIGTERM else 1)

    def _act(self, runner: Runner, iteration: int) -> None:
        received, self._received = self._received, 0
        if get_world_size() > 1:
            everywhere = torch.tensor(received)
            all_reduce(everywhere, 'max')
            received = int(everywhere)
        if received:
            path = self._checkpoints.save_now(runner, runner.epoch, iteration)
            if received == 2:
                warn(f'SIGTERM: saved {path}; --resume goes on from there')
                self.after_train(runner)
                raise SystemExit(EXIT_CODE)
            runner.logger.info(f'SIGUSR1: saved {path}')
