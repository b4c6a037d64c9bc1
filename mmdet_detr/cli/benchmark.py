"""Work of ``mim run mmdet_detr benchmark``."""

import argparse
import json
import logging
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..average_precision import average_precision
from ..reports.speed import draw, markdown
from ..speed.candidates import read_config, reason
from ..speed.machine import machine
from ..speed.malloc import keep_freed_memory
from ..speed.run import Fail, Settings, run
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Measure the detectors and write the results; exit code 1 if one of them could not be measured."""
    warnings.filterwarnings('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    with errors_in_one_line('benchmark'):
        args.out.mkdir(parents=True, exist_ok=True)
        results = _measure(args)
        if not results['rows']:
            sys.exit('benchmark: nothing could be measured')
        text = markdown(results)
        (args.out / 'benchmark.md').write_text(text)
        pictures = ', '.join(path.name for path in draw(results, args.out))
    print(text)
    print(f'written to {args.out}: benchmark.json, benchmark.md, {pictures}')
    sys.exit(1 if results['failed'] else 0)


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Content of ``benchmark.json``. The file is written after every case, so that a run that is ended keeps them."""
    checkpoints = [None if name == '-' else name for name in args.checkpoint or ['-'] * len(args.configs)]
    same = {name: getattr(args, name) for name in ('device', 'mode', 'rounds', 'warmup', 'objects', 'images')}
    lists = {'dtypes': args.dtype, 'sizes': args.size, 'batches': args.batch}
    settings = Settings(args.configs, checkpoints, memory=not args.no_memory, **lists, **same)
    failed: dict[str, str] = {}
    results: dict[str, Any] = {
        'command': f'mim run mmdet_detr benchmark {shlex.join(sys.argv[1:])}',
        'machine': machine(args.device),
        'rounds': args.rounds,
        'rows': [],
        'ap': {},
        'failed': failed,
    }
    with _ProgressInTenths(settings.steps) as progress:

        def fail(name: str, error: BaseException) -> None:
            if reason(error) != failed.get(name):
                failed[name] = reason(error)
                progress.show_error(name, error, args.out / 'errors.log')

        for rows in run(settings, progress.report, fail):
            results['rows'] = rows
            _save(results, args.out)
        results['ap'] = _accuracies(settings, failed, progress, fail)
    _save(results, args.out)
    return results


def _accuracies(
    settings: Settings, failed: dict[str, str], progress: '_ProgressInTenths', fail: Fail
) -> dict[str, dict[str, float]]:
    """AP of the detectors with a checkpoint, by their names in tables."""
    found = {}
    for config, checkpoint, name in zip(settings.paths, settings.checkpoints, settings.names, strict=True):
        if checkpoint and config not in failed:
            progress.report(f'AP of {config}', 0)
            try:
                found[name] = average_precision(read_config(config), checkpoint)
            except Exception as error:  # the data sets of others can raise anything
                fail(config, error)
    return {name: ap for name, ap in found.items() if ap}


def _save(results: dict[str, Any], folder: Path) -> None:
    (folder / 'benchmark.json').write_text(json.dumps(results, indent=1) + '\n')


class _ProgressInTenths(Progress):
    """A progress bar, and a line for every tenth where the output is no terminal."""

    def __init__(self, steps: int) -> None:
        percentage = TextColumn('{task.percentage:3.0f}%')
        super().__init__(TextColumn('{task.description}'), BarColumn(), percentage, TimeRemainingColumn())
        self.work = self.add_task('', total=steps)
        self.last_tenth = 0

    def report(self, text: str, steps: int) -> None:
        """Show what is done now, and that some steps are done."""
        self.update(self.work, description=text, advance=steps)
        tenth = int(self.tasks[0].percentage) // 10
        if tenth > self.last_tenth and not self.console.is_terminal:
            self.last_tenth = tenth
            print(f'{10 * tenth}%: {text}', flush=True)

    def show_error(self, name: str, error: BaseException, log: Path) -> None:
        """One line for the user; the stack trace goes to a file."""
        line = f'benchmark: {name}: {reason(error)}'
        self.console.print(line, style='red', markup=False, highlight=False, soft_wrap=True)
        with log.open('a') as file:
            traceback.print_exception(error, file=file)
