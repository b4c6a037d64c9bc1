"""A log history that does not slow a long training down."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from ..errors import ConfigError
from ..registry import HOOKS


@HOOKS.register_module()
class LogHistoryHook(Hook):
    """Keeps the last values of every logged scalar only.

    mmengine keeps a million of each, copies all of them to add one, and stores them in every checkpoint: at the end of
    150 epochs of COCO (16 images a step) that costs tens of milliseconds an iteration and hundreds of MB a checkpoint
    (``benchmarks/log_history.py``). Means in the log, of windows such as ``'epoch'`` and ``'global'`` too, reach back
    as far as is kept. Works in runs that were started without it too.

    Args:
        max_length: how many values to keep.

    Raises:
        ConfigError: from training, where the log processor's ``window_size`` asks for more.
    """

    def __init__(self, max_length: int = 10_000) -> None:
        self.max_length = max_length

    def before_train(self, runner: Runner) -> None:
        window = runner.log_processor.window_size
        if self.max_length < window:
            raise ConfigError(f'LogHistoryHook(max_length={self.max_length}) keeps less than window_size={window}')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None, outputs: dict | None = None
    ) -> None:
        scalars = runner.message_hub.log_scalars
        for name, history in scalars.items():
            if history.max_length != self.max_length:
                values, counts = history.data
                last = slice(-self.max_length, None)
                scalars[name] = HistoryBuffer(values[last], counts[last], self.max_length)
