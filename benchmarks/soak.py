"""Train a small DETR for hours with data loader workers, and watch memory, open files and processes.

    python benchmarks/soak.py [--minutes 120] [--out benchmarks/results]

Samples the memory of the training process and its workers, their open files and their number every ten seconds.
Memory is what they hold alone or share among each other. Mapped files such as libraries do not count, since their share
depends on other processes that use them. The slope is that of a straight line through the samples after the first
fifth. Writes soak.json, soak.md and soak.png. The exit code is 1 if a process is left over.
"""

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress
from training import quietly

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.speed.machine import machine

mpl.use('Agg')
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
INTERVAL = 10  # seconds
MIB = 2**10  # /proc counts in KiB
OWN = ('Pss_Anon:', 'Pss_Shmem:')  # memory that n processes share counts as 1/n of it for each


class StopAt(Hook):
    """Ends a training at a given time of ``time.monotonic``."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        runner.train_loop.stop_training = time.monotonic() > self.moment


def train(minutes: float, work_dir: str) -> None:
    """Train until the time is over, saving and validating as the demonstration does."""
    torch.set_num_threads(1)
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py')
    config.work_dir = work_dir
    config.train_dataloader.num_workers = config.val_dataloader.num_workers = 2
    config.train_dataloader.persistent_workers = config.val_dataloader.persistent_workers = True
    config.train_cfg.max_iters = 10**7
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset.data_root = f'{ROOT / loader.dataset.data_root}/'
    config.val_evaluator.ann_file = str(ROOT / config.val_evaluator.ann_file)
    runner = quietly(Runner.from_cfg, config)
    runner.register_hook(StopAt(time.monotonic() + 60 * minutes))
    quietly(runner.train)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        tasks = Path(f'/proc/{pid}/task').glob('*/children')
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:  # it has ended meanwhile
        return []
    return [pid, *(member for child in children for member in family(child))]


def sample(pid: int) -> dict[str, float]:
    """Memory in MiB, open files and number of processes of a family; a member that ends meanwhile is left out."""
    memory, files, processes = 0.0, 0, 0
    for member in family(pid):
        try:
            rollup = Path(f'/proc/{member}/smaps_rollup').read_text()
            files += len(list(Path(f'/proc/{member}/fd').iterdir()))
        except OSError:
            continue
        memory += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(OWN)) / MIB
        processes += 1
    return {'mib': memory, 'files': files, 'processes': processes}


def slope(samples: list[dict[str, float]], key: str) -> float:
    """Growth an hour, by least squares over all but the first fifth."""
    rest = samples[len(samples) // 5 :]
    return float(np.polyfit([s['seconds'] / 3600 for s in rest], [s[key] for s in rest], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=120, help='minutes of training')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--work-dir', default=str(ROOT / 'work_dirs' / 'soak'), help='log and checkpoints')
    arguments = parser.parse_args()
    context = multiprocessing.get_context('spawn')
    process = context.Process(target=train, args=(arguments.minutes, arguments.work_dir))
    process.start()
    start = time.monotonic()
    samples: list[dict[str, float]] = []
    with Progress() as progress:
        task = progress.add_task('training', total=arguments.minutes)
        while process.is_alive():
            process.join(INTERVAL)
            seconds = time.monotonic() - start
            if process.is_alive():
                members = family(process.pid)
                samples.append({'seconds': seconds, **sample(process.pid)})
            progress.update(task, completed=seconds / 60)
    if process.exitcode or len(samples) < 10:
        sys.exit(f'soak.py: the training ended with exit code {process.exitcode} after {len(samples)} samples')
    left = [pid for pid in members if Path(f'/proc/{pid}').exists()]
    results = {
        'machine': machine('cpu'),
        'minutes': arguments.minutes,
        'mib_an_hour': slope(samples, 'mib'),
        'files_an_hour': slope(samples, 'files'),
        'processes': max(s['processes'] for s in samples),
        'left_over': len(left),
        'samples': samples,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'soak.json').write_text(json.dumps(results) + '\n')
    figure, axes = plt.subplots(figsize=(8, 3.5), layout='constrained')
    axes.plot([s['seconds'] / 60 for s in samples], [s['mib'] for s in samples])
    axes.set(xlabel='minutes', ylabel='MiB of training and workers', ylim=(0, None))
    figure.savefig(arguments.out / 'soak.png', dpi=110)
    text = (
        f'`{" ".join(["python", "benchmarks/soak.py", *sys.argv[1:]])}`, {results["machine"]}: '
        f'{results["mib_an_hour"]:+.1f} MiB and {results["files_an_hour"]:+.1f} open files an hour; '
        f'{results["processes"]} processes at most, {len(left)} left over.'
    )
    (arguments.out / 'soak.md').write_text(text + '\n')
    print(text)
    sys.exit(bool(left))


if __name__ == '__main__':
    main()
