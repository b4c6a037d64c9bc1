"""Time SciPy's solver against torch-linear-assignment on the costs of a training step, copies included.

benchmarks/cuda.py runs it: only a GPU can gain from the second solver, and without one the package calls SciPy.
"""

import statistics
from typing import Any

import torch
from rich.progress import track

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.models.matching.assignment import solve
from mmdet_detr.reports import speed
from mmdet_detr.speed.run import spread
from mmdet_detr.speed.stages import StopWatch

NUM_LAYERS = 6
SETTINGS = ((2, 8, 100), (8, 8, 100), (8, 60, 100), (8, 100, 300), (8, 300, 900))  # images, objects, queries


def compare(images: int, objects: int, queries: int, device: str, turns: int) -> dict[str, Any]:
    """Median milliseconds of both solvers, which take turns, and the median of their ratios.

    Raises:
        ValueError: the solvers give different assignments.
    """
    # The layers share a box cost and have a class cost each, as predictions of successive layers are similar.
    cost = torch.rand(1, images, objects, queries) * 5 + torch.rand(NUM_LAYERS, images, objects, queries)
    cost, valid = cost.to(device), torch.ones(images, objects, dtype=torch.bool, device=device)
    pairs = []
    for on_device in (False, True):  # this warms both up as well
        solution = solve(cost, valid, on_device=on_device)
        pairs.append(sorted(zip(solution.queries.tolist(), solution.targets.tolist(), strict=True)))
    if pairs[0] != pairs[1]:
        raise ValueError('SciPy and torch-linear-assignment give different assignments')
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in track(range(turns), description=f'{images} images, {objects} objects, {queries} queries'):
        for on_device, measured in times.items():
            watch = StopWatch(torch.device(device))
            solve(cost, valid, on_device=on_device)
            measured.append(1000 * watch.lap())
    scipy, second = times.values()
    return {
        'images': images,
        'objects': objects,
        'queries': queries,
        'scipy_ms': spread(scipy),
        'torch_linear_assignment_ms': spread(second),
        'ratio': statistics.median(a / b for a, b in zip(scipy, second, strict=True)),
    }


def threshold(rows: list[dict[str, Any]]) -> int | None:
    """The number of objects from which torch-linear-assignment is faster in every row; None where there is none."""
    slower = max((row['objects'] for row in rows if row['ratio'] <= 1), default=0)
    return min((row['objects'] for row in rows if row['objects'] > slower), default=None)


def table_of(rows: list[dict[str, Any]]) -> str:
    """Rows of :func:`compare` as a table, with the threshold that they give."""
    names = ('scipy_ms', 'torch_linear_assignment_ms')
    lines = [
        [f'{row["images"]} x {row["objects"]} x {row["queries"]}']
        + [speed.spread(row[name], 2) for name in names]
        + [f'{row["ratio"]:.2f}']
        for row in rows
    ]
    head = ('images x objects x queries', 'SciPy, ms', 'torch-linear-assignment, ms', 'times as fast')
    return f'{speed.table(head, lines)}\nMeasured: `device_solver_from={threshold(rows)}`.\n'
