"""Checks all data sets of a config."""

import os
from concurrent.futures import ThreadPoolExecutor

from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..errors import ConfigError
from .check import SplitReport, check_split
from .sources import num_queries_of, sources_of


def check_config(config: Config, decode: bool = False) -> list[SplitReport]:
    """Check every data set of a config, with a bar of progress for each.

    Args:
        config: the config of a detector.
        decode: whether to decode the images.

    Raises:
        ConfigError: the config has no model or data sets that could be checked.
    """
    model = config.get('model') or {}
    num_classes, num_things, num_queries = _num_classes_of(model), _num_things_of(model), num_queries_of(model)
    init_default_scope('mmdet')
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reports = []
    # Threads suffice: decoders and hashes release Python's lock.
    console = Console(stderr=True)
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bars as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for source in sources_of(config):
            task = progress.add_task(source.name, total=None)

            def advance(done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            reports.append(check_split(source, num_classes, num_queries, decode, pool, advance, num_things))
    return reports


def _num_classes_of(model: dict) -> int | None:
    """The number of classes of the head, if the config has one that says it."""
    if not isinstance(model, dict):
        raise ConfigError(f'the config has a {type(model).__name__} as its model')
    head = model.get('bbox_head') or (model.get('roi_head') or {}).get('bbox_head')
    return head.get('num_classes') if isinstance(head, dict) else None


def _num_things_of(model: dict) -> int | None:
    """The number of classes of things of a mask head, if the config has one that says it."""
    head = model.get('mask_head')
    return head.get('num_things_classes') if isinstance(head, dict) else None
