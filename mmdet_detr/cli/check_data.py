"""Work of ``mim run mmdet_detr check_data``."""

import argparse
import io
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table

from ..configs import load_config
from ..data_check import SplitReport, check_config, check_overlap, num_queries_of
from ..datasets.problems import Problem, number_of
from ..errors import ConfigError
from ..reports.data import kinds, write_report
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Check the data and write the report; exit code 1 if there are errors in them."""
    logging.disable(logging.INFO)
    warnings.simplefilter('ignore')
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # the terminal may lack the letters of a class name
    with errors_in_one_line('check_data'):
        config = load_config(args.config, _overrides(args.cfg_options))
        reports = check_config(config, args.decode)
        overlap = check_overlap(reports)
        write_report(args.out, reports, overlap, num_queries_of(config.get('model')))
        if args.clean:
            _write_clean(args.clean, reports)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    for report in reports:
        _show(console, f'{report.source.name}: {report.source.ann_file}', report.problems)
    if overlap:
        _show(console, 'training and validation', overlap)
    console.print(f'written to {args.out}: data_check.json, data_check.md, data_check.png')
    sys.exit(any(p.fatal for report in reports for p in report.problems) or bool(overlap))


def _overrides(texts: list[str] | None) -> dict[str, Any] | None:
    """The values of ``KEY=VALUE ...``, as mmdet's scripts read them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    try:
        return parser.parse_args(['--cfg-options', *texts] if texts else []).cfg_options
    except AssertionError as error:  # brackets or quotes that are not closed
        raise ConfigError(f'--cfg-options takes KEY=VALUE: {error}') from error


def _write_clean(folder: Path, reports: list[SplitReport]) -> None:
    """Write the annotation files without what cannot be used; neither a checked file nor a written one is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Path(report.source.ann_file) for report in reports]
    taken = {path.resolve() for path in sources}
    names = [path.name for path in sources]
    for path, report in zip(sources, reports, strict=True):
        if not report.clean['images']:
            print(f'{path}: nothing is left to write')
            continue
        name = path.name if names.count(path.name) == 1 else f'{report.source.splits[0]}_{path.name}'
        number = 1
        while (folder / name).resolve() in taken:
            number += 1
            name = f'{path.stem}_{number}{path.suffix}'
        taken.add((folder / name).resolve())
        (folder / name).write_text(json.dumps(report.cleaned()))
        print(f'{path} without what cannot be used: {folder / name}')


def _show(console: Console, title: str, problems: list[Problem]) -> None:
    table = Table('', 'kind', 'number', 'first', title=title, title_justify='left')
    for level, kind, found in kinds(problems):
        table.add_row(level, kind.label, str(number_of(found)), f'{found[0].where}: {found[0].reason}')
    console.print(table if problems else f'{title}: nothing wrong')
