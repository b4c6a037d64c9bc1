"""Quiet runners of shortened schedules, and means as text, for the scripts that train."""

import contextlib
import io
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

ROOT = Path(__file__).parents[1]


class ProgressHook(Hook):
    """Calls a function with the number of iterations that are done."""

    def __init__(self, show: Callable[[int], None]) -> None:
        self.show = show

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        self.show(runner.iter + 1)


def quietly(function: Callable, *arguments: object) -> Any:
    """Call a function without its output on the terminal, and return its result."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments)


def arguments_shown(arguments: Iterable[str]) -> str:
    """Arguments of a command as text for its results, without the folders that it writes to."""

    def shown() -> Iterator[str]:
        rest = iter(arguments)
        for argument in rest:
            if argument in ('--out', '--work-dir'):
                next(rest)
            else:
                yield argument

    return shlex.join(shown())


def file_name(title: str) -> str:
    return title.replace(', ', '_').replace(' ', '_').replace('+', 'and').replace("'", '')


def runner_of(
    title: str,
    config: Config,
    seed: int,
    iterations: int,
    work_dir: Path,
    show: Callable[[int], None],
    max_iters: int | None = None,
) -> Runner:
    """A runner whose schedule is shortened to so many iterations, and which logs to a folder of its own.

    It ends with the schedule, or after ``max_iters``.
    """
    config.work_dir = str(work_dir / file_name(title))
    config.randomness = {'seed': seed}
    config.train_cfg.max_iters = max_iters or iterations
    config.param_scheduler[0].end = config.param_scheduler[1].begin = iterations // 10
    config.param_scheduler[1].end = iterations
    config.default_hooks.checkpoint = {
        'type': 'mmdet_detr.AtomicCheckpointHook',
        'interval': -1,
        'save_last': False,
    }
    config.experiment_name = f'{file_name(title)}_{time.time_ns()}'
    MMLogger._instance_dict.clear()  # otherwise this run would write to the log of the run before
    runner = quietly(Runner.from_cfg, config)
    runner.register_hook(ProgressHook(show))
    return runner


def spread(values: list[float], digits: int) -> str:
    """Mean and range."""
    mean = f'{sum(values) / len(values):.{digits}f}'
    return mean if len(values) == 1 else f'{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})'
