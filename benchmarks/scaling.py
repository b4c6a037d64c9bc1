"""Measure time and memory of DETR's parts against tokens, queries, objects and images, with the exponents.

    python benchmarks/scaling.py [--device cpu] [--rounds 7] [--out benchmarks/results]

Encoder, decoder and loss of the R50 model run alone. Times are of one training step (forward and backward), medians of
rounds in which all sizes take turns; memory is what autograd keeps for the backward pass, counted from its tensors.
Writes scaling_DEVICE.json, .md and .png.
"""

import argparse
import json
import logging
import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from mmengine.structures import InstanceData
from rich.progress import track
from torch import Tensor

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.models import BipartiteMatchLoss
from mmdet_detr.models.matching.targets import targets_of
from mmdet_detr.models.transformer import Decoder, Encoder
from mmdet_detr.reports.speed import table
from mmdet_detr.speed.machine import machine
from mmdet_detr.speed.malloc import keep_freed_memory
from mmdet_detr.speed.stages import StopWatch

mpl.use('Agg')
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
WIDTH, HEADS, HIDDEN, DROPOUT, CLASSES, LAYERS = 256, 8, 2048, 0.1, 80, 6
TOKENS, QUERIES, OBJECTS, IMAGES = 850, 100, 8, 2  # sizes that stay while another one grows
MIB = 2**20
Step = Callable[[], Tensor]


def encoder(tokens: int = TOKENS, images: int = IMAGES, device: str = 'cpu') -> Step:
    layers = Encoder(LAYERS, WIDTH, HEADS, HIDDEN, DROPOUT).to(device)
    x, pos = torch.randn(images, tokens, WIDTH, device=device), torch.randn(1, tokens, WIDTH, device=device)
    return lambda: layers(x.requires_grad_(), pos, None).sum()


def decoder(queries: int = QUERIES, tokens: int = TOKENS, device: str = 'cpu') -> Step:
    layers = Decoder(LAYERS, WIDTH, HEADS, HIDDEN, DROPOUT).to(device)
    memory, pos = torch.randn(IMAGES, tokens, WIDTH, device=device), torch.randn(1, tokens, WIDTH, device=device)
    query = torch.randn(IMAGES, queries, WIDTH, device=device)
    return lambda: layers(query, memory.requires_grad_(), pos, None).sum()


def loss(objects: int = OBJECTS, images: int = IMAGES, queries: int = QUERIES, device: str = 'cpu') -> Step:
    criterion = BipartiteMatchLoss()
    logits = torch.randn(LAYERS, images, queries, CLASSES + 1, device=device, requires_grad=True)
    boxes = torch.rand(LAYERS, images, queries, 4, device=device, requires_grad=True)
    labels = torch.randint(CLASSES, (images, objects), device=device)
    top_left = torch.rand(images, objects, 2, device=device) * 0.6
    corners = torch.cat((top_left, top_left + 0.05 + torch.rand_like(top_left) * 0.3), dim=-1)  # the image is 1 x 1
    given = [InstanceData(bboxes=corners[i], labels=labels[i]) for i in range(images)]
    targets = targets_of(given, [{'img_shape': (1, 1), 'img_id': i} for i in range(images)], CLASSES)
    return lambda: sum(v for k, v in criterion(logits, boxes, targets).items() if 'loss' in k)


# Each row has a part, what grows, its sizes, and the exponents that the algorithm implies for small and large sizes.
CURVES: tuple[tuple[str, str, Callable[..., Step], tuple[int, ...], str], ...] = (
    ('encoder', 'tokens', encoder, (150, 300, 600, 1200), '1 (linear layers) to 2 (attention)'),
    ('encoder', 'images', encoder, (1, 2, 4, 8), '1'),
    ('decoder', 'tokens', decoder, (150, 300, 600, 1200), '0 (the queries) to 1 (keys and values)'),
    ('decoder', 'queries', decoder, (50, 100, 200, 400, 800), '1 (linear layers) to 2 (self-attention)'),
    ('loss', 'objects', loss, (5, 10, 20, 40, 80), '0 (classes) to 2 (the solver, times queries)'),
    ('loss', 'images', loss, (2, 4, 8, 16), '1'),
    ('loss', 'queries', loss, (100, 200, 400, 800), '1'),
)


def kept_mib(step: Step) -> float:
    """MiB of all tensors that autograd keeps, each storage once."""
    storages: dict[int, int] = {}

    def look(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(look, lambda x: x):
        step()
    return sum(storages.values()) / MIB


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """The slope between the two largest sizes in a diagram of logarithms."""
    if min(values[-2:]) <= 0:
        return 0.0
    return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))


def measure(device: str, rounds: int) -> list[dict]:
    rows = []
    for part, what, build, sizes, expected in track(CURVES, description='measuring'):
        steps = [build(**{what: size}, device=device) for size in sizes]
        times: list[list[float]] = [[] for _ in sizes]
        for number in range(rounds + 1):
            for i, step in enumerate(steps):
                watch = StopWatch(torch.device(device))
                step().backward()
                if number:
                    times[i].append(watch.lap())
        seconds = [statistics.median(values) for values in times]
        memory = [kept_mib(step) for step in steps]
        rows.append(
            {
                'part': part,
                'what': what,
                'sizes': sizes,
                'seconds': seconds,
                'mib': memory,
                'time_exponent': exponent(sizes, seconds),
                'memory_exponent': exponent(sizes, memory),
                'expected': expected,
            }
        )
    return rows


def markdown(results: dict) -> str:
    head = ('part', 'against', 'sizes', 'ms', 'exponent', 'MiB kept', 'exponent', 'implied')
    lines = [
        [
            row['part'],
            row['what'],
            ', '.join(map(str, row['sizes'])),
            ', '.join(f'{1000 * s:.1f}' for s in row['seconds']),
            f'{row["time_exponent"]:.2f}',
            ', '.join(f'{m:.1f}' for m in row['mib']),
            f'{row["memory_exponent"]:.2f}',
            row['expected'],
        ]
        for row in results['rows']
    ]
    return (
        f'{table(head, lines)}\n`python benchmarks/scaling.py --device {results["device"]}`, {results["machine"]}; '
        f'medians of {results["rounds"]} rounds in turns. '
        f'What does not grow: {TOKENS} tokens, {QUERIES} queries, {OBJECTS} objects an image, {IMAGES} images. '
        'Exponents are those between the two largest sizes.\n'
    )


def draw(results: dict, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout='constrained')
    for axis, key, label in ((axes[0], 'seconds', 'seconds'), (axes[1], 'mib', 'MiB kept for the backward pass')):
        for row in results['rows']:
            axis.plot(row['sizes'], row[key], marker='o', label=f'{row["part"]}, {row["what"]}')
        axis.set(xscale='log', yscale='log', xlabel='size', ylabel=label)
        axis.grid(alpha=0.3, which='both')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=4, fontsize='small')
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--rounds', type=int, default=7, help='timed rounds')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    keep_freed_memory()
    torch.manual_seed(0)
    results = {
        'device': args.device,
        'machine': machine(args.device),
        'rounds': args.rounds,
        'rows': measure(args.device, args.rounds),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f'scaling_{args.device}.json').write_text(json.dumps(results, indent=1) + '\n')
    (args.out / f'scaling_{args.device}.md').write_text(markdown(results))
    draw(results, args.out / f'scaling_{args.device}.png')
    print(markdown(results))


if __name__ == '__main__':
    main()
