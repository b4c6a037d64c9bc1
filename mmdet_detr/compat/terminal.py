"""Keep lists and false alarms of other packages off the terminal of a run; the log file has all of them."""

import builtins
import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import mmengine.logging.logger
import pycocotools.coco
import pycocotools.cocoeval
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner

# Exact texts, so that a new message of these packages is seen. Lists, and what one of our lines says already:
LISTS = (
    r'\s*-+\s+System environment:',
    r'Config:\s',
    r'Hooks will be executed in the following order:',
    r'paramwise_options -- ',
    r'[\w.]+ is skipped since its requires_grad=False$',
    r'Distributed training is not used, all SyncBatchNorm \(SyncBN\) layers',
    r'Checkpoints will be saved to ',
    r'Exp name: ',
    r'LR is set based on batch size of ',
    r'Load checkpoint from ',
    r'Evaluating (bbox|segm|proposal)\.\.\.$',
    r'(bbox|segm)_mAP_copypaste: ',
)
# True of every run, with nothing that a user could do:
FALSE_ALARMS = (
    r'"FileClient" will be deprecated in future',
    r'"HardDiskBackend" is the alias of "LocalBackend"',
    r'The prefix is not set in metric class \w+\.$',
    r'Failed to search registry with scope "mmdet" in the "\w+" registry tree',
)
PRINTED = (
    r'Could not import OneDL\. Skipping OneDL datasets\.$',
    r'Loads checkpoint by \w+ backend from path: ',
    r'loading annotations into memory\.\.\.$',
    r'(creating index\.\.\.|index created!)$',
    r'Loading and preparing results\.\.\.$',
    r'(Running per image evaluation|Accumulating evaluation results)\.\.\.$',
    r'Evaluate annotation type \*\w+\*$',
    r'(?i:done) \(t=[\d.]+s\)\.?$',
)
NO_FASTER_COCO = 'faster_coco_eval is not installed, metrics will not be computed'
LOADED = 'Loaded '  # how the report on a checkpoint begins
TABLE = r' Average (Precision|Recall) '
_hidden_records = re.compile('|'.join(LISTS + FALSE_ALARMS))
_hidden_prints = re.compile('|'.join(PRINTED))
_printed_to_file = re.compile('|'.join((*PRINTED, TABLE)))
_in_tool = False


def quiet_tool() -> None:
    """Keep them off the terminal of this whole process, which is one of our tools."""
    global _in_tool
    _in_tool = True
    warnings.filterwarnings('ignore', NO_FASTER_COCO)
    warnings.filterwarnings('ignore', r'Glyph \d+ .* missing from font')  # once for each letter and picture
    matplotlib.rcParams['text.parse_math'] = False  # mmdet draws class names, which are no formulas
    _catch_prints()
    quiet_runs(lambda runner: True)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Keep them off the terminal while mmdet is imported; everything else that is printed meanwhile passes."""

    def show(*values: Any, **kwargs: Any) -> None:
        if not _hidden_prints.match(' '.join(map(str, values))):
            builtins.print(*values, **kwargs)

    before = getattr(mmengine.logging.logger, 'print', builtins.print)
    mmengine.logging.logger.print = show
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', NO_FASTER_COCO)
            yield
    finally:
        mmengine.logging.logger.print = before


def quiet_runs(chosen: Callable[[Runner], bool]) -> None:
    """Keep them off the terminal of the runs of this process that are chosen; other loggers stay as they are.

    Args:
        chosen: says so of a runner that is being built, and has its config and its log processor.
    """
    for kind in (Runner, FlexibleRunner):
        kind._log_env = _after_quieting(kind._log_env, chosen)


def shorten_reports(logger: MMLogger) -> None:
    """Show the first two lines of the report on a loaded checkpoint on the terminal; the log file has all of it."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setFormatter(_Shortened(handler.formatter or logging.Formatter()))


class _Shortened(logging.Formatter):
    """Another formatter, whose text is cut where it is a report on a checkpoint."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        text = self._formatter.format(record)
        return '\n'.join(text.split('\n')[:2]) if record.getMessage().startswith(LOADED) else text


def _after_quieting(log_env: Callable[..., None], chosen: Callable[[Runner], bool]) -> Callable[..., None]:
    """mmengine's first records come from this method: the runner has its logger and its log processor by then."""

    def quiet_and_log_env(self: Runner, *args: Any, **kwargs: Any) -> None:
        if chosen(self) and not is_quiet(self.logger):
            for handler in self.logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.addFilter(_NotInFile())
            _catch_prints()
        log_env(self, *args, **kwargs)

    return quiet_and_log_env


def is_quiet(logger: MMLogger) -> bool:
    """Whether lists and false alarms stay off the terminal of a run."""
    return any(isinstance(one, _NotInFile) for handler in logger.handlers for one in handler.filters)


class _NotInFile(logging.Filter):
    """Lets a handler pass what is not for the log file alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or not _hidden_records.match(record.getMessage())


def _catch_prints() -> None:
    """Let modules that print their progress ask :func:`_print` first."""
    for module in (pycocotools.coco, pycocotools.cocoeval, mmengine.logging.logger):
        module.print = _print


def _print(*values: Any, **kwargs: Any) -> None:
    """``print``, but for known lines: they go to the log file of a quiet run, or nowhere in a tool without one."""
    text = ' '.join(map(str, values))
    logger = MMLogger.get_current_instance() if MMLogger._instance_dict else None
    if logger is not None and is_quiet(logger) and _printed_to_file.match(text):
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
    elif not (_in_tool and _hidden_prints.match(text)):
        builtins.print(*values, **kwargs)
