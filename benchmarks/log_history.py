"""Measure what mmengine's log history costs an iteration and a checkpoint, by the number of iterations before.

    python benchmarks/log_history.py [--out benchmarks/results]

Adds a value to each of the scalars that a DETR of six decoder layers logs, in histories of growing length, with and
without the bound of LogHistoryHook. Writes log_history.json and log_history.md.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from mmengine.logging import HistoryBuffer
from rich.progress import track

from mmdet_detr.engine import LogHistoryHook
from mmdet_detr.reports.speed import spread, table
from mmdet_detr.speed.machine import machine

ROOT = Path(__file__).parents[1]
# A DETR of six decoder layers logs lr, two times, norm of the gradients, loss, three losses for each layer and four
# measures of the matching.
SCALARS = 27
LENGTHS = (10_000, 100_000, 1_000_000)
ROUNDS = 20


def cost(max_length: int, length: int) -> dict:
    """Milliseconds an iteration (median and quartiles), and MiB of all histories."""
    kept = min(length, max_length)
    buffers = [HistoryBuffer(np.zeros(kept), np.ones(kept), max_length) for _ in range(SCALARS)]
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for buffer in buffers:
            buffer.update(1.0)
        times.append(1e3 * (time.perf_counter() - start))
    size = sum(array.nbytes for buffer in buffers for array in buffer.data) / 2**20
    return {'ms': np.quantile(times, [0.5, 0.25, 0.75]).tolist(), 'mib': size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    arguments = parser.parse_args()
    results = []
    for length in track(LENGTHS, description='lengths'):
        costs = [cost(max_length, length) for max_length in (1_000_000, LogHistoryHook().max_length)]
        results.append({'iterations': length, 'mmengine': costs[0], 'ours': costs[1]})
    rows = [
        [
            f'{r["iterations"]:,}',
            *(t for c in (r['mmengine'], r['ours']) for t in (spread(c['ms'], 1), f'{c["mib"]:.1f}')),
        ]
        for r in results
    ]
    titles = ['iterations behind it', 'mmengine: ms an iteration', 'MiB', 'with LogHistoryHook: ms an iteration', 'MiB']
    text = f'{table(titles, rows)}\n\n`python benchmarks/log_history.py`, {machine("cpu")}.\n'
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = {'machine': machine('cpu'), 'scalars': SCALARS, 'results': results}
    (arguments.out / 'log_history.json').write_text(json.dumps(document, indent=1) + '\n')
    (arguments.out / 'log_history.md').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
