"""Train our DETR, mmdet's and Faster R-CNN on the same budget, and compare AP against training time.

    .venv-ops/bin/python benchmarks/budget.py shapes [--seeds 0 1 2] [--jobs 2] [--out benchmarks/results]
    .venv-ops/bin/python benchmarks/budget.py bccd

All have the same backbone, images and optimizer, and each trains for as many iterations as take the same time. On BCCD
each starts from its own weights of the shapes, so run the shapes first. Every run has one thread and reads its data in
its own process. Its time is processor time without validation, so other processes count little. Writes JSON, Markdown
and a picture (budget_DATA) after each run, and keeps the runs that are already there. Faster R-CNN needs mmcv's
compiled operators (make ops).
"""

import argparse
import importlib.util
import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import matplotlib as mpl
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress
from training import file_name, quietly, runner_of, spread

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.reports.speed import table
from mmdet_detr.speed.machine import machine

mpl.use('Agg')
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
OURS, THEIRS, FASTER = 'mmdet_detr', "mmdet's DETR", 'Faster R-CNN'
CONFIGS = {
    'shapes': {
        OURS: 'detr/detr_tiny_shapes.py',
        THEIRS: 'peers/mmdet-detr_tiny_shapes.py',
        FASTER: 'faster_rcnn/faster-rcnn_tiny_shapes.py',
    },
    'bccd': {
        OURS: 'detr/detr_r18_bccd.py',
        THEIRS: 'peers/mmdet-detr_r18_bccd.py',
        FASTER: 'faster_rcnn/faster-rcnn_r18_bccd.py',
    },
}
ITERATIONS = {  # the detectors take about the same time; 3800 is the demonstration's number
    'shapes': {OURS: 3800, THEIRS: 2300, FASTER: 780},
    'bccd': {OURS: 1000, THEIRS: 600, FASTER: 590},
}
COLOURS = {OURS: 'C0', THEIRS: 'C1', FASTER: 'C2'}
POINTS = 10  # validations in a run


class CurveHook(Hook):
    """Records AP and the processor time spent in training so far."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.seconds = 0.0

    def before_train(self, runner: Runner) -> None:
        self.start = time.process_time()

    def before_val(self, runner: Runner) -> None:
        self.seconds += time.process_time() - self.start

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        names = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'}
        measured = {name: (metrics or {})[key] for name, key in names.items()}
        self.points.append({'iterations': runner.iter, 'seconds': self.seconds, **measured})

    def after_val(self, runner: Runner) -> None:
        self.start = time.process_time()


def weights(data: str, detector: str, seed: int, folder: Path) -> Path:
    return folder / f'{file_name(f"{data} {detector} {seed}")}.pth'


def train(
    data: str, detector: str, seed: int, iterations: int, folder: Path, done: MutableMapping[tuple[str, int], int]
) -> dict:
    """One run, in a process of its own; its weights and log stay in the folder."""
    torch.set_num_threads(1)
    config = Config.fromfile(ROOT / 'configs' / CONFIGS[data][detector])
    config.train_cfg.val_interval = iterations // POINTS
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.data_root = f'{ROOT / loader.dataset.data_root}/'
    config.val_evaluator.ann_file = str(ROOT / config.val_evaluator.ann_file)
    if data == 'bccd':
        config.load_from = str(weights('shapes', detector, seed, folder))
    curve = CurveHook()

    def show(iteration: int) -> None:
        done[detector, seed] = iteration

    runner = runner_of(f'{data} {detector} {seed}', config, seed, iterations, folder, show)
    runner.register_hook(curve)
    model = quietly(runner.train)
    torch.save({'state_dict': model.state_dict()}, weights(data, detector, seed, folder))
    parameters = sum(p.numel() for p in model.parameters())
    return {'detector': detector, 'seed': seed, 'parameters': parameters, 'curve': curve.points}


def markdown(results: dict) -> str:
    runs = grouped(results)
    rows = []
    for detector, of_detector in runs.items():
        last = [run['curve'][-1] for run in of_detector]
        rows.append(
            [
                detector,
                *(spread([point[metric] for point in last], 3) for metric in ('AP', 'AP50', 'AP75')),
                spread([point['seconds'] / 60 for point in last], 1),
                str(results['iterations'][detector]),
                f'{of_detector[0]["parameters"] / 1e6:.2f} M',
            ]
        )
    heads = ['detector', 'AP', 'AP50', 'AP75', 'minutes', 'iterations', 'parameters']
    seeds = len({run['seed'] for run in results['runs']})
    origin = f'`{results["command"]}`, {results["machine"]}'
    note = f'{seeds} seed(s), mean and range; minutes of one processor in training, without validation'
    return f'{table(heads, rows)}\n{origin}. {note}.\n'


def grouped(results: dict) -> dict[str, list[dict]]:
    runs = {name: [run for run in results['runs'] if run['detector'] == name] for name in CONFIGS[results['data']]}
    return {name: of_detector for name, of_detector in runs.items() if of_detector}


def draw(results: dict, path: Path) -> None:
    """A line a run: AP against minutes of training."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout='constrained')
    for detector, of_detector in grouped(results).items():
        for i, run in enumerate(of_detector):
            minutes = [0.0, *(point['seconds'] / 60 for point in run['curve'])]
            label = detector if i == 0 else None
            axes.plot(minutes, [0.0, *(point['AP'] for point in run['curve'])], COLOURS[detector], label=label)
    axes.set(xlabel='minutes of one processor', ylabel='AP', title=f'{results["data"]}, one line a run')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run_all(results: dict, seeds: list[int], arguments: argparse.Namespace, save: Callable[[], None]) -> None:
    """Train all runs that are missing, several at the same time, and save after each."""
    there = {(run['detector'], run['seed']) for run in results['runs']}
    context = multiprocessing.get_context('spawn')
    with (
        context.Manager() as manager,
        Progress() as progress,
        ProcessPoolExecutor(arguments.jobs, context, max_tasks_per_child=1) as pool,
    ):
        done = manager.dict()
        bars, futures = {}, set()
        for seed in seeds:
            for detector in arguments.detectors:
                if (detector, seed) not in there:
                    steps = results['iterations'][detector]
                    futures.add(pool.submit(train, arguments.data, detector, seed, steps, arguments.work_dir, done))
                    bars[detector, seed] = progress.add_task(f'{detector}, seed {seed}', total=steps)
        while futures:
            finished, futures = wait(futures, timeout=1, return_when=FIRST_COMPLETED)
            for run, iteration in done.items():
                progress.update(bars[run], completed=iteration)
            for future in finished:
                results['runs'] = sorted([*results['runs'], future.result()], key=lambda r: (r['seed'], r['detector']))
                save()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', choices=CONFIGS)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='one run each')
    parser.add_argument('--detectors', nargs='+', choices=COLOURS, default=list(COLOURS), help='only these')
    parser.add_argument('--share', type=float, default=1.0, help='share of the iterations, for a quick try')
    parser.add_argument('--jobs', type=int, default=2, help='runs at the same time, with one thread each')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'budget', help='logs and weights')
    parser.add_argument('--draw', action='store_true', help='only make table and picture from the JSON again')
    return parser.parse_args()


def check(arguments: argparse.Namespace) -> None:
    """Exit with one line if something is missing."""
    if FASTER in arguments.detectors and importlib.util.find_spec('mmcv._ext') is None:
        sys.exit("budget.py: Faster R-CNN needs mmcv's compiled operators: make ops, then .venv-ops/bin/python")
    for detector in arguments.detectors:
        config = Config.fromfile(ROOT / 'configs' / CONFIGS[arguments.data][detector])
        annotations = ROOT / config.val_evaluator.ann_file
        if not annotations.exists():
            sys.exit(f'budget.py: {annotations} is missing: docs/data.md says how to make it')
        for seed in arguments.seeds:
            start = weights('shapes', detector, seed, arguments.work_dir)
            if arguments.data == 'bccd' and not start.exists():
                sys.exit(f'budget.py: {start} is missing: train on the shapes first, with the same seeds')


def main() -> None:
    arguments = parse_arguments()
    path = arguments.out / f'budget_{arguments.data}.json'
    iterations = {name: int(steps * arguments.share) for name, steps in ITERATIONS[arguments.data].items()}
    if arguments.draw:
        if not path.exists():
            sys.exit(f'budget.py: {path} is missing: run without --draw first')
        results = json.loads(path.read_text())
    else:
        check(arguments)
        torch.set_num_threads(1)
        before = json.loads(path.read_text()) if path.exists() else {}
        results = {
            'command': f'.venv-ops/bin/python benchmarks/budget.py {shlex.join(sys.argv[1:])}',
            'data': arguments.data,
            'machine': machine('cpu'),
            'iterations': iterations,
            'runs': before['runs'] if before.get('iterations') == iterations else [],
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        run_all(results, arguments.seeds, arguments, lambda: path.write_text(json.dumps(results, indent=1) + '\n'))
    path.with_suffix('.md').write_text(markdown(results))
    draw(results, path.with_suffix('.png'))
    print(markdown(results))


if __name__ == '__main__':
    main()
