"""Check the data that a config would read, before a long training does.

Reads the annotation files of all its data loaders and looks at every image: missing, cut off, of another size than the
annotations say, in training and validation at once; wrong ids, categories and boxes; classes that do not fit; more
objects than queries. Exit code 1 with errors, 0 with warnings only, 2 where nothing could be checked.
"""

import argparse
import io
import json
import logging
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.data_check import SplitReport, check_overlap, check_split, num_queries_of, sources_of
from mmdet_detr.datasets.problems import Problem
from mmdet_detr.errors import ConfigError, one_line
from mmdet_detr.reports.data import draw, kinds, markdown

NAME = 'check_data'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=Path)
    parser.add_argument('--decode', action='store_true', help='decode every image, on all cores')
    parser.add_argument(
        '--out', type=Path, default=Path('data_check'), help='folder of the report (default: data_check)'
    )
    parser.add_argument('--clean', type=Path, help='folder for annotation files without what cannot be used')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='overrides, as in training')
    try:
        return parser.parse_args()
    except (AssertionError, ValueError) as error:  # of DictAction
        fail(f'--cfg-options takes KEY=VALUE: {error}')


def fail(message: str) -> NoReturn:
    print(f'{NAME}: {message}', file=sys.stderr)
    sys.exit(2)


def num_classes_of(model: dict) -> int | None:
    """What the head of a config says, where it has one."""
    if not isinstance(model, dict):
        fail(f'the config has a {type(model).__name__} as its model')
    head = model.get('bbox_head') or (model.get('roi_head') or {}).get('bbox_head')
    return head.get('num_classes') if isinstance(head, dict) else None


def read_config(args: argparse.Namespace) -> Config:
    try:
        config = Config.fromfile(args.config)
        config.merge_from_dict(args.cfg_options or {})
    except Exception as error:  # a config is a program, which can raise anything
        fail(f'{args.config} cannot be read: {type(error).__name__}: {one_line(error)}')
    return config


def write_clean(folder: Path, reports: list[SplitReport]) -> None:
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
        while (folder / name).resolve() in taken:  # neither a file that was checked nor one that was just written
            number += 1
            name = f'{path.stem}_{number}{path.suffix}'
        taken.add((folder / name).resolve())
        (folder / name).write_text(json.dumps(report.cleaned()))
        print(f'{path} without what cannot be used: {folder / name}')


def show(console: Console, title: str, problems: list[Problem]) -> None:
    table = Table('', 'kind', 'number', 'first', title=title, title_justify='left')
    for level, kind, found in kinds(problems):
        table.add_row(level, kind.label, str(len(found)), f'{found[0].where}: {found[0].reason}')
    console.print(table if problems else f'{title}: nothing wrong')


def main() -> None:
    args = parse_args()
    logging.disable(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # names of classes where the terminal has not their letters
    warnings.simplefilter('ignore')
    if not args.config.is_file():
        fail(f'no such file: {args.config}')
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reports = []
    config = read_config(args)
    try:
        init_default_scope('mmdet')
        model = config.get('model') or {}
        num_queries = num_queries_of(model)
        sources = sources_of(config)
        # decoders and hashes run without Python's lock
        with Progress(*columns, console=Console(stderr=True)) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
            for source in sources:
                task = progress.add_task(source.name, total=None)

                def advance(done: int, total: int, task: TaskID = task) -> None:
                    progress.update(task, completed=done, total=total)

                reports.append(check_split(source, num_classes_of(model), num_queries, args.decode, pool, advance))
        overlap = check_overlap(reports)
        args.out.mkdir(parents=True, exist_ok=True)
        lists = [(r.source.splits, r.source.ann_file, r.problems) for r in reports] + [((), '', overlap)]
        found = [
            {'splits': splits, 'ann_file': path, 'problems': [problem.as_json() for problem in problems]}
            for splits, path, problems in lists
        ]
        (args.out / 'data_check.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
        (args.out / 'data_check.md').write_text(markdown(reports, overlap, num_queries), encoding='utf-8')
        draw(reports, num_queries, args.out / 'data_check.png')
        if args.clean:
            write_clean(args.clean, reports)
    except (ConfigError, OSError) as error:
        fail(str(error))
    for report in reports:
        show(console, f'{report.source.name}: {report.source.ann_file}', report.problems)
    if overlap:
        show(console, 'training and validation', overlap)
    console.print(f'written to {args.out}: data_check.json, data_check.md, data_check.png')
    sys.exit(any(p.fatal for report in reports for p in report.problems) or bool(overlap))


if __name__ == '__main__':
    main()
