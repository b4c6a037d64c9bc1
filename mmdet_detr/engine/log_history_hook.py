"""Limits the log history, so that it does not slow down a long training."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from ..errors import ConfigError
from ..registry import HOOKS


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Keeps only the last ``max_length`` values of every logged scalar.

    mmengine keeps a million values of each scalar, copies all of them to add one, and stores them in every checkpoint.
    At the end of 150 epochs of COCO (16 images per step), this costs tens of milliseconds per iteration and hundreds of
    MB per checkpoint (``benchmarks/log_history.py``). With the hook, the means in the log cover at most ``max_length``
    values, also for the windows ``'epoch'`` and ``'global'``. A run that started without the hook can resume with it.

    Raises:
        ConfigError: in training, if the log processor's ``window_size`` is larger than ``max_length``.
    """

    def __init__(self, max_length: int = 10_000) -> None:
        self.max_length = max_length

    def before_train(self, runner: Runner) -> None:
        window = runner.log_processor.window_size
        if self.max_length < window:
            raise ConfigError(
                f'LogHistoryHook(max_length={self.max_length}) keeps fewer values than log_processor.window_size='
                f'{window}: set max_length to at least {window}'
            )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        scalars = runner.message_hub.log_scalars
        for name, history in scalars.items():
            if history.max_length != self.max_length:
                last = (numbers[-self.max_length :] for numbers in history.data)
                scalars[name] = HistoryBuffer(*last, self.max_length)
