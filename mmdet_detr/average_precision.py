"""Measures COCO's AP of a detector, if its test data are on this machine."""

import io
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import Progress

from .configs import forget_pretrained

METRICS = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75', 'AP_S': 'mAP_s', 'AP_M': 'mAP_m', 'AP_L': 'mAP_l'}


class _ProgressHook(Hook):
    """Shows how much of a test is done."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task('AP', total=None)

    def before_test(self, runner: Runner) -> None:
        self._bar.update(self._task, total=len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        self._bar.advance(self._task)


def average_precision(config: Config, checkpoint: str | None) -> dict[str, float] | None:
    """AP, AP50, AP75 and AP of small, medium and large objects on a config's test data; None if they are missing.

    The config changes.
    """
    evaluator = config.get('test_evaluator')
    evaluator = evaluator[0] if isinstance(evaluator, list) else evaluator
    if not evaluator or not Path(evaluator.get('ann_file') or '').is_file():
        return None
    forget_pretrained(config.model)
    config.load_from = checkpoint
    config.visualizer = None
    loggers = dict(MMLogger._instance_dict)
    MMLogger._instance_dict.clear()  # an existing logger would write to the folder of an earlier run
    silence, console = io.StringIO(), Console(file=sys.stderr)
    bar = Progress(
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_terminal,
    )
    with tempfile.TemporaryDirectory() as folder, bar, redirect_stdout(silence), redirect_stderr(silence):
        config.work_dir = folder
        config.experiment_name = f'benchmark_{Path(folder).name}'
        try:
            runner = Runner.from_cfg(config)
            runner.register_hook(_ProgressHook(bar))
            metrics = runner.test()
        finally:
            MMLogger._instance_dict.clear()
            MMLogger._instance_dict.update(loggers)
    return {name: metrics[f'coco/bbox_{key}'] for name, key in METRICS.items() if f'coco/bbox_{key}' in metrics}
