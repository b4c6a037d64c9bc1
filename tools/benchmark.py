"""Measure detectors side by side: speed by stages, memory, operations, parameters, and AP where checkpoints are given.

CONFIG is a file, or a config that a package brings along, such as mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py.
All detectors take turns in one process, so that what else the machine does hits all of them alike.
"""

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

from mmdet_detr.reports.speed import draw, markdown
from mmdet_detr.speed.accuracy import average_precision
from mmdet_detr.speed.candidates import reason
from mmdet_detr.speed.machine import machine
from mmdet_detr.speed.malloc import keep_freed_memory
from mmdet_detr.speed.run import MODES, Settings, run


def image_size(text: str) -> tuple[int, int]:
    height, width = (int(number) for number in text.split('x'))
    if min(height, width) < 1:
        raise ValueError
    return height, width


image_size.__name__ = 'HEIGHTxWIDTH'  # what argparse calls it where it is wrong


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='benchmark', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs of detectors; the first is the reference')
    parser.add_argument('--checkpoint', nargs='+', help="weights, one for each config, '-' for random ones")
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--batch', type=int, nargs='+', default=[1], help='images a batch (default: 1)')
    parser.add_argument(
        '--size',
        type=image_size,
        nargs='+',
        default=[(800, 1066)],
        help='HEIGHTxWIDTH of the input (default: 800x1066)',
    )
    parser.add_argument('--mode', choices=MODES, default='both', help='what to time (default: both)')
    parser.add_argument(
        '--dtype', nargs='+', choices=('float32', 'bfloat16', 'float16'), default=['float32'], help='types of autocast'
    )
    parser.add_argument('--rounds', type=int, default=10, help='timed rounds (default: 10)')
    parser.add_argument('--warmup', type=int, default=2, help='rounds before them (default: 2)')
    parser.add_argument('--objects', type=int, default=8, help='boxes an image in training (default: 8)')
    parser.add_argument('--images', type=Path, help='folder of images to read (default: generated ones)')
    parser.add_argument('--threads', type=int, help="threads of PyTorch (default: PyTorch's)")
    parser.add_argument('--no-memory', action='store_true', help='leave memory out: it takes a process for every row')
    parser.add_argument(
        '--out', type=Path, default=Path('benchmark'), help='folder of the results (default: benchmark)'
    )
    args = parser.parse_args()
    if args.checkpoint and len(args.checkpoint) != len(args.configs):
        parser.error(f'{len(args.configs)} configs, but {len(args.checkpoint)} checkpoints')
    if min(*args.batch, args.rounds) < 1 or min(args.warmup, args.objects) < 0:
        parser.error('--batch and --rounds must be at least 1, --warmup and --objects at least 0')
    return args


def main() -> None:
    args = parse_args()
    warnings.filterwarnings('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    checkpoints = [None if name == '-' else name for name in args.checkpoint or ['-'] * len(args.configs)]
    settings = Settings(
        args.configs,
        checkpoints,
        args.device,
        args.dtype,
        args.size,
        args.batch,
        args.mode,
        args.rounds,
        args.warmup,
        args.objects,
        args.images,
        not args.no_memory,
    )
    failed: dict[str, str] = {}
    args.out.mkdir(parents=True, exist_ok=True)

    def fail(name: str, error: BaseException) -> None:
        """One line for every way in which a detector fails; the stack traces are in a file."""
        if reason(error) != failed.get(name):
            failed[name] = reason(error)
            progress.console.print(
                f'benchmark: {name}: {failed[name]}', style='red', markup=False, highlight=False, soft_wrap=True
            )
            with (args.out / 'errors.log').open('a') as file:
                traceback.print_exception(error, file=file)

    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TextColumn('{task.percentage:3.0f}%'),
        TimeRemainingColumn(),
    )
    results: dict[str, Any] = {
        'command': f'mim run mmdet_detr benchmark {shlex.join(sys.argv[1:])}',
        'machine': machine(args.device),
        'rounds': args.rounds,
        'rows': [],
        'ap': {},
        'failed': failed,
    }

    def save() -> None:
        (args.out / 'benchmark.json').write_text(json.dumps(results, indent=1) + '\n')

    with Progress(*columns) as progress:
        task = progress.add_task('', total=settings.steps)
        told = 0

        def report(text: str, steps: int) -> None:
            nonlocal told
            progress.update(task, description=text, advance=steps)
            tenth = int(progress.tasks[0].percentage) // 10
            if tenth > told and not progress.console.is_terminal:  # where no bar is drawn
                told = tenth
                print(f'{10 * tenth}%: {text}', flush=True)

        for rows in run(settings, report, fail):
            results['rows'] = rows
            save()
        for config, checkpoint, name in zip(args.configs, checkpoints, settings.names, strict=True):
            if checkpoint and config not in failed:
                progress.update(task, description=f'AP of {config}')
                try:
                    found = average_precision(config, checkpoint)
                except Exception as error:  # whatever a data set of others raises
                    fail(config, error)
                    continue
                if found:
                    results['ap'][name] = found
        progress.update(task, completed=settings.steps, description='measured')
    if not results['rows']:
        sys.exit('benchmark: nothing could be measured')
    save()
    text = markdown(results)
    (args.out / 'benchmark.md').write_text(text)
    print(text)
    print(f'written to {args.out}: benchmark.json, benchmark.md, {", ".join(p.name for p in draw(results, args.out))}')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
