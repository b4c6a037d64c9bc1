"""The steps of benchmarks/cuda.py, in the order of their importance, and the page that they make."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import matching, solvers
from benchmarks.turns import COPIES, Detector, count_copies, need, take_turns
from mmdet_detr.errors import ConfigError
from mmdet_detr.models.matching import assignment
from mmdet_detr.reports.speed import markdown, table
from mmdet_detr.speed.candidates import reason
from mmdet_detr.speed.machine import machine

BATCHES = (2, 8)
DTYPES = ('float32', 'bfloat16')
COMPILING = 120  # seconds that have to be left when torch.compile begins
NOTE = (
    'MiB: max_memory_allocated in a step of one detector, with its weights, gradients and optimizer. All images of a '
    'batch have one size. Training batches are decoded beforehand, so that data is their transfer and normalisation. '
    'bfloat16 by autocast.'
)


class Measurement:
    """Runs the steps, and writes cuda.json and cuda.md after each, so that an interrupted run keeps what it has."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.end = time.monotonic() + 60 * args.minutes
        self.results: dict[str, Any] = {
            'command': shlex.join(['python', 'benchmarks/cuda.py', *sys.argv[1:]]),
            'machine': machine(args.device),
            'rounds': args.rounds,
            'note': NOTE,
            **{name: [] for name in ('rows', 'copies', 'losses', 'solvers')},
            'left_out': {},
        }
        self.ours, self.peers, self.compiled = (
            [Detector(path, dtype, args.device, compiled_in) for dtype in DTYPES]
            for path, compiled_in in ((args.config, None), (args.peer, None), (args.config, folder))
        )

    def run(self) -> None:
        steps = self.steps()
        for number, (name, step) in enumerate(steps, start=1):
            print(f'[{number}/{len(steps)}] {name}', flush=True)
            try:
                need(0, self.end)
                step()
            except Exception as error:  # models, packages and devices raise errors of any kind
                self.leave_out(name, error)
            self.save()

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """Names and functions of all steps, the most important first."""
        small, large = ([(mode, batch) for mode in ('train', 'infer')] for batch in BATCHES)
        try:
            losses = list(product(matching.implementations().items(), matching.SETTINGS))
        except Exception as error:  # mmdet and transformers raise errors of any kind
            losses = []
            self.leave_out('loss', error)
        steps = [
            *((f'copies, {d.title}', partial(self.copies, d)) for d in (self.ours[0], self.peers[0])),
            *((f'{mode}, batch {batch}', partial(self.speed, mode, batch)) for mode, batch in small),
            *((f'loss, {loss[0]}, {b} x {n}', partial(self.loss, *loss, b, n)) for loss, (b, n) in losses),
            *((f'{mode}, batch {batch}', partial(self.speed, mode, batch)) for mode, batch in large),
        ]
        if assignment.batch_linear_assignment is None:
            missing = 'torch-linear-assignment is not installed: pip install "mmdet_detr[gpu-solver]"'
            self.leave_out('solvers', ConfigError(missing))
        else:
            steps += [(f'solvers, {b} x {n} x {q}', partial(self.solver, b, n, q)) for b, n, q in solvers.SETTINGS]
        if not self.args.no_compile:
            cases = small + large
            steps += [(f'{mode}, batch {b}, compiled', partial(self.speed_compiled, mode, b)) for mode, b in cases]
        return steps

    def leave_out(self, name: str, error: Exception) -> None:
        self.results['left_out'][name] = reason(error)
        print(f'cuda: left out: {name}: {reason(error)}', flush=True)

    def save(self) -> None:
        texts = {'cuda.json': json.dumps(self.results, indent=1) + '\n', 'cuda.md': page(self.results)}
        for name, text in texts.items():
            part = self.args.out / f'{name}.part'
            part.write_text(text)
            part.replace(self.args.out / name)

    def copies(self, detector: Detector) -> None:
        self.results['copies'].append(count_copies(detector, self.args.size, BATCHES[0]))

    def speed(self, mode: str, batch: int) -> None:
        self.results['rows'] += self.turns([*self.ours, *self.peers], mode, batch).values()

    def speed_compiled(self, mode: str, batch: int) -> None:
        """The plain detector takes turns with the compiled ones; its own row is there already."""
        need(COMPILING, self.end)
        rows = self.turns([self.ours[0], *self.compiled], mode, batch)
        self.results['rows'] += [row for detector, row in rows.items() if detector in self.compiled]

    def turns(self, detectors: list[Detector], mode: str, batch: int) -> dict[Detector, dict[str, Any]]:
        def fail(detector: Detector, error: Exception) -> None:
            self.leave_out(f'{mode}, batch {batch}, {detector.title}', error)

        return take_turns(detectors, mode, self.args.size, batch, self.args.rounds, self.end, fail)

    def loss(self, loss: str, steps: dict[str, matching.Step], images: int, objects: int) -> None:
        def fail(implementation: str, error: Exception) -> None:
            self.leave_out(f'loss, {loss}, {images} x {objects}, {implementation}', error)

        args = self.args
        self.results['losses'] += matching.compare(loss, steps, images, objects, args.device, args.rounds, fail)

    def solver(self, *setting: int) -> None:
        self.results['solvers'].append(solvers.compare(*setting, self.args.device, self.args.rounds))


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = [f'# On a CUDA machine\n\n{markdown(results)}']
    if results['copies']:
        rows = [[row['detector'], *(str(row[kind]) for kind in COPIES)] for row in results['copies']]
        text = table(('detector', 'copies to the host', 'copies to the device', 'waits for the device'), rows)
        batch = results['copies'][0]['batch']
        parts.append(f'**One training step, float32, batch {batch}**\n\n{text}')
    if results['losses']:
        parts.append(f'**The loss step: matching, losses, backward**\n\n{matching.table_of(results["losses"])}')
    if results['solvers']:
        parts.append(solvers.table_of(results['solvers']))
    if results['left_out']:
        lines = [f'- {name}: {why}\n' for name, why in results['left_out'].items()]
        parts.append(f'**Left out**\n\n{"".join(lines)}')
    return '\n'.join(parts)
