"""Train detectors for the same time, and compare AP against training time.

    .venv-ops/bin/python benchmarks/budget.py shapes [--seeds 0 1 2] [--jobs 2] [--out benchmarks/results]
    .venv-ops/bin/python benchmarks/budget.py bccd

All have the same backbone and images. Every run has one thread and reads its data in its own process. Its schedule
follows the clock and ends with the budget. Time is processor time without validation, so other processes count little.
On photographs each detector starts from its own weights of the shapes, so run the shapes
first; bccd-scratch starts from initialised weights. Writes JSON, Markdown and a picture (budget_DATA) after each run,
and keeps the runs that are already there. Faster R-CNN needs mmcv's compiled operators (make ops).
"""

import argparse
import functools
import importlib.util
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, MutableMapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import matplotlib as mpl
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress
from training import ROOT, arguments_shown, file_name, quietly, runner_of, spread

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.reports.speed import table
from mmdet_detr.speed.machine import machine

mpl.use('Agg')
from matplotlib import pyplot as plt

OURS, PLAIN, THEIRS, FASTER = 'mmdet_detr', 'plain recipe', "mmdet's DETR", 'Faster R-CNN'
BCCD = {
    OURS: 'detr/detr_r18_bccd.py',
    PLAIN: 'detr/detr_r18_bccd_plain.py',
    THEIRS: 'peers/mmdet-detr_r18_bccd.py',
    FASTER: 'faster_rcnn/faster-rcnn_r18_bccd.py',
}
CONFIGS = {
    'shapes': {
        OURS: 'detr/detr_tiny_shapes.py',
        PLAIN: 'detr/detr_tiny_shapes_plain.py',
        THEIRS: 'peers/mmdet-detr_tiny_shapes.py',
        FASTER: 'faster_rcnn/faster-rcnn_tiny_shapes.py',
    },
    'bccd': BCCD,
    'bccd-scratch': BCCD,
    'raccoon': {OURS: 'detr/detr_r18_raccoon.py', FASTER: 'faster_rcnn/faster-rcnn_r18_raccoon.py'},
}
FROM_SHAPES = ('bccd', 'raccoon')
MINUTES = {'shapes': 7.8, 'bccd': 9.0, 'bccd-scratch': 9.0, 'raccoon': 9.0}
COLOURS = {OURS: 'C0', PLAIN: 'C3', THEIRS: 'C1', FASTER: 'C2'}
POINTS = 10  # validations in a run
STEPS = 5000  # of the schedulers in a run
ENDLESS = 10**9  # iterations: the clock ends a run


class BudgetHook(Hook):
    """Trains for so many seconds of processor time, with the schedule by the clock, and records points of the curve.

    Instead of the ``ParamSchedulerHook``: schedulers are made for ``STEPS`` steps, and take those that the clock has
    passed. So a machine that slows down trains less, but neither longer nor with another schedule.
    """

    priority = 'VERY_LOW'

    def __init__(self, seconds: float, show: Callable[[int, int], None]) -> None:
        self.seconds = seconds
        self.show = show
        self.points: list[dict[str, float]] = []

    def before_train(self, runner: Runner) -> None:
        self.step = 0
        self.spent_in_validation = 0.0
        self.start = time.process_time()

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        elapsed = time.process_time() - self.start - self.spent_in_validation
        step = min(STEPS, int(STEPS * elapsed / self.seconds))
        for _ in range(step - self.step):
            for scheduler in runner.param_schedulers:
                scheduler.step()
        self.step = step
        self.show(step, STEPS)
        if step >= STEPS * (len(self.points) + 1) // POINTS:
            self.validate(runner, elapsed)
        runner.train_loop.stop_training = step == STEPS

    def validate(self, runner: Runner, elapsed: float) -> None:
        before = time.process_time()
        metrics = runner.val_loop.run()
        names = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'}
        measured = {name: metrics[key] for name, key in names.items()}
        self.points.append({'iterations': runner.iter + 1, 'seconds': elapsed, **measured})
        self.spent_in_validation += time.process_time() - before


def weights(data: str, detector: str, seed: int, folder: Path) -> Path:
    return folder / f'{file_name(f"{data} {detector} {seed}")}.pth'


def prepared(path: Path, options: dict | None = None) -> Config:
    """A config that finds its data from any folder, and reads it in its own process."""
    config = Config.fromfile(path)
    config.merge_from_dict(options or {})
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.data_root = f'{ROOT / loader.dataset.data_root}/'
    config.val_evaluator.ann_file = str(ROOT / config.val_evaluator.ann_file)
    return config


def train(
    title: str, config: Config, seed: int, minutes: float, folder: Path, show: Callable[[int, int], None]
) -> dict:
    """Train for a budget; log and weights stay in the folder. Returns the curve and the number of parameters."""
    torch.set_num_threads(1)
    config.default_hooks.param_scheduler = None
    config.train_cfg.val_interval = ENDLESS
    budget = BudgetHook(60 * minutes, show)
    runner = runner_of(title, config, seed, STEPS, folder, lambda iteration: None, max_iters=ENDLESS)
    runner.register_hook(budget)
    model = quietly(runner.train)
    torch.save({'state_dict': model.state_dict()}, folder / f'{file_name(title)}.pth')
    network = [p for name, p in model.named_parameters() if 'training_queries' not in name]
    return {'parameters': sum(p.numel() for p in network), 'curve': budget.points}


def run(
    data: str, minutes: float, folder: Path, detector: str, seed: int, done: MutableMapping[tuple, tuple[int, int]]
) -> dict:
    """One run, in a process of its own."""
    config = prepared(ROOT / 'configs' / CONFIGS[data][detector])
    if data in FROM_SHAPES:
        config.load_from = str(weights('shapes', detector, seed, folder))

    def show(iteration: int, iterations: int) -> None:
        done[detector, seed] = iteration, iterations

    return {
        'detector': detector,
        'seed': seed,
        **train(f'{data} {detector} {seed}', config, seed, minutes, folder, show),
    }


def markdown(results: dict) -> str:
    runs = grouped(results, COLOURS)
    rows = []
    for detector, of_detector in runs.items():
        last = [run['curve'][-1] for run in of_detector]
        rows.append(
            [
                detector,
                str(len(of_detector)),
                *(spread([point[metric] for point in last], 3) for metric in ('AP', 'AP50', 'AP75')),
                spread([point['seconds'] / 60 for point in last], 1),
                spread([point['iterations'] for point in last], 0),
                f'{of_detector[0]["parameters"] / 1e6:.2f} M',
            ]
        )
    heads = ['detector', 'seeds', 'AP', 'AP50', 'AP75', 'minutes', 'iterations', 'parameters']
    commands = ', '.join(dict.fromkeys(f'`{run["command"]}`' for run in results['runs']))
    origin = f'{commands}, {results["machine"]}'
    note = 'mean and range over the seeds; minutes of one processor in training, without validation'
    return f'{table(heads, rows)}\n{origin}. {note}.\n'


def grouped(results: dict, names: Iterable[str]) -> dict[str, list[dict]]:
    """The runs of each name, in the order of the names."""
    runs = {name: [run for run in results['runs'] if run['detector'] == name] for name in names}
    return {name: of_detector for name, of_detector in runs.items() if of_detector}


def draw(results: dict, path: Path) -> None:
    """A line a run: AP against minutes of training."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout='constrained')
    for detector, of_detector in grouped(results, COLOURS).items():
        for i, run in enumerate(of_detector):
            minutes = [0.0, *(point['seconds'] / 60 for point in run['curve'])]
            label = detector if i == 0 else None
            axes.plot(minutes, [0.0, *(point['AP'] for point in run['curve'])], COLOURS[detector], label=label)
    axes.set(xlabel='minutes of one processor', ylabel='AP', title=f'{results["data"]}, one line a run')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run_all(results: dict, jobs: Iterable[tuple[str, int]], one: Callable[..., dict], workers: int, path: Path) -> None:
    """Do the runs that are missing, several at the same time, and save after each.

    Args:
        results: its ``runs`` grow.
        jobs: name and seed of each run.
        one: called with name, seed and a mapping from name and seed to the iterations done and all.
        workers: runs at the same time.
        path: file of the results.
    """
    there = {(run['detector'], run['seed']) for run in results['runs']}
    context = multiprocessing.get_context('spawn')
    with (
        context.Manager() as manager,
        Progress() as progress,
        ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool,
    ):
        done = manager.dict()
        bars, futures = {}, set()
        for name, seed in jobs:
            if (name, seed) not in there:
                futures.add(pool.submit(one, name, seed, done))
                bars[name, seed] = progress.add_task(f'{name}, seed {seed}', total=None)
        while futures:
            finished, futures = wait(futures, timeout=1, return_when=FIRST_COMPLETED)
            for key, (iteration, iterations) in done.items():
                progress.update(bars[key], completed=iteration, total=iterations)
            for future in finished:
                finished_run = {**future.result(), 'command': results['command']}
                results['runs'] = sorted([*results['runs'], finished_run], key=lambda r: (r['seed'], r['detector']))
                path.write_text(json.dumps(results, indent=1) + '\n')


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', choices=CONFIGS)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='one run each')
    parser.add_argument('--detectors', nargs='+', choices=COLOURS, help='only these; default: all of the data')
    parser.add_argument('--minutes', type=float, help='of one processor, for each run')
    parser.add_argument('--jobs', type=int, default=2, help='runs at the same time, with one thread each')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'budget', help='logs and weights')
    parser.add_argument('--draw', action='store_true', help='only make table and picture from the JSON again')
    arguments = parser.parse_args()
    arguments.detectors = arguments.detectors or list(CONFIGS[arguments.data])
    arguments.minutes = arguments.minutes or MINUTES[arguments.data]
    return arguments


def check(arguments: argparse.Namespace) -> None:
    """Exit with one line if something is missing."""
    if FASTER in arguments.detectors and importlib.util.find_spec('mmcv._ext') is None:
        sys.exit("budget.py: Faster R-CNN needs mmcv's compiled operators: make ops, then .venv-ops/bin/python")
    for detector in arguments.detectors:
        if detector not in CONFIGS[arguments.data]:
            sys.exit(f'budget.py: there is no config of {detector} for {arguments.data}')
        annotations = Path(prepared(ROOT / 'configs' / CONFIGS[arguments.data][detector]).val_evaluator.ann_file)
        if not annotations.exists():
            sys.exit(f'budget.py: {annotations} is missing: docs/data.md says how to make it')
        for seed in arguments.seeds:
            start = weights('shapes', detector, seed, arguments.work_dir)
            if arguments.data in FROM_SHAPES and not start.exists():
                sys.exit(f'budget.py: {start} is missing: train on the shapes first, with the same seeds')


def main() -> None:
    arguments = parse_arguments()
    path = arguments.out / f'budget_{arguments.data}.json'
    if arguments.draw:
        if not path.exists():
            sys.exit(f'budget.py: {path} is missing: run without --draw first')
        results = json.loads(path.read_text())
    else:
        check(arguments)
        torch.set_num_threads(1)
        before = json.loads(path.read_text()) if path.exists() else {}
        results = {
            'command': f'.venv-ops/bin/python benchmarks/budget.py {arguments_shown(sys.argv[1:])}',
            'data': arguments.data,
            'machine': machine('cpu'),
            'minutes': arguments.minutes,
            'runs': before['runs'] if before.get('minutes') == arguments.minutes else [],
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        jobs = itertools.product(arguments.detectors, arguments.seeds)
        one = functools.partial(run, arguments.data, arguments.minutes, arguments.work_dir)
        run_all(results, jobs, one, arguments.jobs, path)
    path.with_suffix('.md').write_text(markdown(results))
    draw(results, path.with_suffix('.png'))
    print(markdown(results))


if __name__ == '__main__':
    main()
