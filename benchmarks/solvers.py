"""Time SciPy's solver against torch-linear-assignment on the costs of a training step, copies included.

    python benchmarks/solvers.py [--device cuda] [--turns 20] [--out benchmarks/results]

Both must give the same assignments, pair by pair. The last line tells from how many objects an image the second is
worth `device_solver_from` of `mmdet_detr.HungarianAssigner`. Without a GPU the package calls SciPy itself.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matching import machine
from rich.progress import track

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.models.matching.assignment import batch_linear_assignment, solve

NUM_LAYERS = 6
SETTINGS = ((2, 8, 100), (8, 8, 100), (8, 60, 100), (8, 100, 300), (8, 300, 900))  # images, objects, queries


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda', help='cuda or cpu')
    parser.add_argument('--turns', type=int, default=20, help='timed calls of each solver')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'), help='folder of the JSON')
    return parser.parse_args()


def milliseconds(function: Callable[[], Any], device: str) -> float:
    synchronise = torch.cuda.synchronize if device == 'cuda' else lambda: None
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return 1000 * (time.perf_counter() - start)


def compare(images: int, objects: int, queries: int, device: str, turns: int) -> dict[str, Any]:
    """Median times of both solvers on costs of the kind that matching gives them."""
    # a box cost that all layers share, and a class cost of their own: predictions agree, but not quite
    cost = torch.rand(1, images, objects, queries) * 5 + torch.rand(NUM_LAYERS, images, objects, queries)
    cost, valid = cost.to(device), torch.ones(images, objects, dtype=torch.bool, device=device)
    pairs = []
    for on_device in (False, True):  # also the warm-up
        solution = solve(cost, valid, on_device=on_device)
        pairs.append(sorted(zip(solution.queries.tolist(), solution.targets.tolist(), strict=True)))
    if pairs[0] != pairs[1]:
        raise SystemExit(f'solvers: different assignments for {images} images, {objects} objects, {queries} queries')
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in track(range(turns), description=f'{images} images, {objects} objects, {queries} queries'):
        for on_device, measured in times.items():
            measured.append(milliseconds(lambda on_device=on_device: solve(cost, valid, on_device=on_device), device))
    scipy, on_device = (statistics.median(measured) for measured in times.values())
    return {
        'images': images,
        'objects': objects,
        'queries': queries,
        'scipy_ms': round(scipy, 2),
        'torch_linear_assignment_ms': round(on_device, 2),
        'ratio': round(statistics.median(a / b for a, b in zip(*times.values(), strict=True)), 2),
    }


def main() -> None:
    args = parse_args()
    if batch_linear_assignment is None:
        raise SystemExit('solvers: pip install torch-linear-assignment')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit('solvers: no CUDA device')
    torch.manual_seed(0)
    rows = []
    for setting in SETTINGS:
        rows.append(compare(*setting, device=args.device, turns=args.turns))
        print(
            '{images} x {objects} x {queries}: SciPy {scipy_ms} ms, torch-linear-assignment '
            '{torch_linear_assignment_ms} ms, {ratio} times as fast'.format(**rows[-1])
        )
    faster = [row['objects'] for row in rows if row['ratio'] > 1]
    slower = max((row['objects'] for row in rows if row['ratio'] <= 1), default=0)
    worth_it = min((objects for objects in faster if objects > slower), default=None)
    print(f'device_solver_from={worth_it}')
    result = {'machine': machine(args.device), 'torch': torch.__version__, 'device_solver_from': worth_it, 'rows': rows}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f'solvers_{args.device}.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
