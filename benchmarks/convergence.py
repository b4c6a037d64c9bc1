"""Take the parts of the fast recipe out one by one, add them one by one, and try other settings, at equal time.

    python benchmarks/convergence.py shapes [--seeds 0 1 2] [--minutes 1] [--rows all "all but Muon"]
    python benchmarks/convergence.py bccd

Like in benchmarks/budget.py, every run has one thread, and its schedule ends with the budget. To keep the validation
images for reports, AP on the photographs is that of every fourth training image, which is left out of training. Writes
convergence_DATA.json, .md and .png, and keeps the runs that are already there.
"""

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path

import torch
from budget import CONFIGS, OURS, ROOT, grouped, plt, prepared, run_all, train
from mmengine.config import Config
from training import arguments_shown, spread

from mmdet_detr.reports.speed import table
from mmdet_detr.speed.machine import machine

MINUTES = {'shapes': 1.0, 'bccd': 4.0}
HELD_OUT = 4  # every fourth photograph of the training images


def without_queries(kind: str, config: Config) -> None:
    head = config.model.bbox_head
    head.training_queries = [queries for queries in head.training_queries if not queries.type.endswith(kind)]


def without_dense_supervision(config: Config) -> None:
    config.model.bbox_head.dense_supervision = None


def without_class_weight(config: Config) -> None:
    """The parts for training only keep theirs: their factors multiply the head's."""
    head = config.model.bbox_head
    head.training_queries[1].cls_weight *= head.loss.loss_cls.loss_weight
    head.dense_supervision.cls_weight *= head.loss.loss_cls.loss_weight
    head.loss.loss_cls.loss_weight = 1.0


def without_muon(config: Config) -> None:
    wrapper = config.optim_wrapper
    del wrapper['constructor'], wrapper['muon']
    wrapper.optimizer.type = 'AdamW'


REMOVE: dict[str, Callable[[Config], None]] = {
    'groups': functools.partial(without_queries, 'QueryGroups'),
    'denoising': functools.partial(without_queries, 'DenoisingQueries'),
    'dense': without_dense_supervision,
    'class weight': without_class_weight,
    'Muon': without_muon,
}
GROUPS = Config.fromfile(ROOT / 'configs' / '_base_' / 'detr_fast.py').fast_head.training_queries[0]
QUERIES = 'model.bbox_head.training_queries'
DENSE = 'model.bbox_head.dense_supervision'
TRIED = {  # name: options of the config
    'losses of all parts x 1': {
        f'{QUERIES}.0.loss_weight': 1.0,
        f'{QUERIES}.1.loss_weight': 1.0,
        f'{DENSE}.loss_weight': 1.0,
    },
    'class loss x 3 in all parts': {f'{QUERIES}.1.cls_weight': 1.0, f'{DENSE}.cls_weight': 1.0},
    'Muon 0.02': {'optim_wrapper.muon.lr': 0.02},
    'class weight 3': {
        'model.bbox_head.loss.loss_cls.loss_weight': 3.0,
        f'{QUERIES}.1.cls_weight': 0.33,
        f'{DENSE}.cls_weight': 1.33,
    },
    'batch of 8': {'train_dataloader.batch_size': 8},
    'batch of 32': {'train_dataloader.batch_size': 32},
    'one group': {f'{QUERIES}.0.num_groups': 1, f'{QUERIES}.0.loss_weight': 1.0},
    'five groups': {f'{QUERIES}.0.num_groups': 4, f'{QUERIES}.0.loss_weight': 4.0},
    'six denoising sets': {f'{QUERIES}.1.num_sets': 6},
    'denoising box noise 0.8': {f'{QUERIES}.1.box_noise': 0.8},
    'dense radius 1': {f'{DENSE}.radius': 1.0},
    'dense radius 2.5': {f'{DENSE}.radius': 2.5},
}
ROWS: dict[str, tuple[list[str], dict]] = {  # name: parts that are taken out, and options
    'all': ([], {}),
    **{f'all but {part}': ([part], {}) for part in REMOVE},
    **{f'only {part}': ([other for other in REMOVE if other != part], {}) for part in REMOVE},
    'none': (list(REMOVE), {}),
    **{name: ([], options) for name, options in TRIED.items()},
}


def row_config(data: str, row: str) -> Config:
    """The recipe of the data with all parts, query groups too, and of them what the row leaves."""
    removed, options = ROWS[row]
    config = prepared(ROOT / 'configs' / CONFIGS[data][OURS])
    head = config.model.bbox_head
    if not head.training_queries[0].type.endswith('QueryGroups'):
        groups = {**GROUPS, 'num_queries': config.model.neck.num_queries}
        head.training_queries = [groups, *head.training_queries]
    config.merge_from_dict(options)
    for part in sorted(removed, key=lambda part: part != 'class weight'):  # while the other parts are there
        REMOVE[part](config)
    return config


def held_out(config: Config, folder: Path) -> None:
    """Validate on training images that are left out of training."""
    train_set, val_set = config.train_dataloader.dataset, config.val_dataloader.dataset
    data = json.loads(Path(train_set.data_root, train_set.ann_file).read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for dataset, keep in ((train_set, False), (val_set, True)):
        images = [image for i, image in enumerate(data['images']) if (i % HELD_OUT == 0) == keep]
        ids = {image['id'] for image in images}
        boxes = [box for box in data['annotations'] if box['image_id'] in ids]
        path = folder / f'{"held_out" if keep else "kept"}.json'
        path.write_text(json.dumps({**data, 'images': images, 'annotations': boxes}))
        dataset.ann_file = str(path.resolve())
    config.val_evaluator.ann_file = val_set.ann_file


def run(
    data: str, minutes: float, folder: Path, row: str, seed: int, done: MutableMapping[tuple, tuple[int, int]]
) -> dict:
    """One run, in a process of its own."""
    config = row_config(data, row)
    if data == 'bccd':
        held_out(config, folder / f'{data} {row} {seed}')

    def show(iteration: int, iterations: int) -> None:
        done[row, seed] = iteration, iterations

    return {'detector': row, 'seed': seed, **train(f'{data} {row} {seed}', config, seed, minutes, folder, show)}


def markdown(results: dict) -> str:
    rows = []
    for name, runs in grouped(results, ROWS).items():
        last = [of_row['curve'][-1] for of_row in runs]
        half = [of_row['curve'][len(of_row['curve']) // 2 - 1]['AP'] for of_row in runs]
        milliseconds = [1000 * point['seconds'] / point['iterations'] for point in last]
        rows.append(
            [
                name,
                spread([point['AP'] for point in last], 3),
                spread([point['AP50'] for point in last], 3),
                spread(half, 3),
                spread([point['iterations'] for point in last], 0),
                spread(milliseconds, 0),
            ]
        )
    heads = ['parts', 'AP', 'AP50', 'AP at half the time', 'iterations', 'ms a step']
    seeds = len({of_row['seed'] for of_row in results['runs']})
    commands = ', '.join(dict.fromkeys(f'`{of_row["command"]}`' for of_row in results['runs']))
    origin = f'{commands}, {results["machine"]}'
    note = f'{results["minutes"]} minutes of one processor each, {seeds} seed(s), mean and range'
    return f'{table(heads, rows)}\n{origin}. {note}.\n'


def draw(results: dict, path: Path) -> None:
    """A bar a row: mean AP, with the range over the seeds."""
    runs = grouped(results, ROWS)
    figure, axes = plt.subplots(figsize=(8, 0.35 * len(runs) + 1), layout='constrained')
    for i, of_row in enumerate(runs.values()):
        last = [run['curve'][-1]['AP'] for run in of_row]
        mean = sum(last) / len(last)
        axes.barh(i, mean, color='C0', xerr=[[mean - min(last)], [max(last) - mean]], ecolor='0.3', capsize=3)
        axes.text(max(last), i, f'  {mean:.3f}', va='center')
    axes.set(yticks=range(len(runs)), yticklabels=list(runs), xlabel='AP, mean and range over the seeds')
    axes.set_title(f'{results["data"]}: parts of the recipe at equal time')
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(alpha=0.3, axis='x')
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', choices=MINUTES)
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS), help='only these')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='one run each')
    parser.add_argument('--minutes', type=float, help='of one processor, for each run')
    parser.add_argument('--jobs', type=int, default=2, help='runs at the same time, with one thread each')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'convergence', help='logs and weights')
    parser.add_argument('--draw', action='store_true', help='only make table and picture from the JSON again')
    arguments = parser.parse_args()
    path = arguments.out / f'convergence_{arguments.data}.json'
    if not (ROOT / 'data' / arguments.data).exists():
        sys.exit(f'convergence.py: data/{arguments.data} is missing: docs/data.md says how to make it')
    if arguments.draw and not path.exists():
        sys.exit(f'convergence.py: {path} is missing: run without --draw first')
    results = json.loads(path.read_text()) if path.exists() else {}
    if not arguments.draw:
        torch.set_num_threads(1)
        minutes = arguments.minutes or MINUTES[arguments.data]
        results = {
            'command': f'python benchmarks/convergence.py {arguments_shown(sys.argv[1:])}',
            'data': arguments.data,
            'machine': machine('cpu'),
            'minutes': minutes,
            'runs': results['runs'] if results.get('minutes') == minutes else [],
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        jobs = itertools.product(arguments.rows, arguments.seeds)
        one = functools.partial(run, arguments.data, minutes, arguments.work_dir)
        run_all(results, jobs, one, arguments.jobs, path)
    path.with_suffix('.md').write_text(markdown(results))
    draw(results, path.with_suffix('.png'))
    print(markdown(results))


if __name__ == '__main__':
    main()
