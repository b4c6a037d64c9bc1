"""The measurement: every detector in turn, many times, in one process."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from .candidates import Candidate, build, names_of, num_classes
from .flops import gflops
from .inputs import Inputs
from .malloc import give_freed_memory_back
from .memory import peak_mib
from .stages import Stages, Trainer, infer

MODES = {'train': ('train',), 'infer': ('infer',), 'both': ('infer', 'train')}


@dataclass
class Settings:
    """What to measure. Sizes are (height, width) in pixels."""

    paths: list[str]
    checkpoints: list[str | None]
    device: str = 'cpu'
    dtypes: list[str] = field(default_factory=lambda: ['float32'])
    sizes: list[tuple[int, int]] = field(default_factory=lambda: [(800, 1066)])
    batches: list[int] = field(default_factory=lambda: [1])
    mode: str = 'both'
    rounds: int = 10
    warmup: int = 2
    objects: int = 8
    images: Path | None = None
    memory: bool = True

    @property
    def names(self) -> list[str]:
        """What tables call the detectors."""
        return names_of(self.paths)

    @property
    def cases(self) -> list[tuple[tuple[int, int], int, str]]:
        """Size, batch and mode of every measurement."""
        modes = MODES[self.mode]  # inference first, before training changes the weights
        return [(size, batch, mode) for mode, size, batch in product(modes, self.sizes, self.batches)]

    @property
    def steps(self) -> int:
        """How often :func:`run` reports progress, where nothing fails."""
        rows = len(self.paths) * len(self.dtypes)
        return rows * (1 + len(self.cases) * (self.warmup + self.rounds + self.memory))


Report = Callable[[str, int], None]  # what is done now, and how many steps are done with it
Fail = Callable[[str, BaseException], None]


def run(settings: Settings, report: Report, fail: Fail) -> Iterator[list[dict[str, Any]]]:
    """Measure, and go on with the others where a detector fails.

    Args:
        settings: what to measure.
        report: called before every step.
        fail: called with the name of a detector that could not be measured, and the exception.

    Yields:
        After every case, the rows so far: one for each detector, type and case, with times in seconds and memory in
        MiB.
    """
    candidates = list(_build_all(settings, report, fail))
    counted: dict[tuple[str, tuple[int, int]], float | None] = {}
    rows = []
    for size, batch, mode in settings.cases:
        for _, candidate in candidates:
            if (candidate.name, size) not in counted:
                counted[candidate.name, size] = _gflops(candidate, size, settings, report, fail)
        turns = _take_turns(settings, candidates, size, batch, mode, report, fail)
        give_freed_memory_back()  # the processes that measure memory need it
        first = turns.get(0) if candidates and candidates[0][1].name == settings.names[0] else None
        for key, times in turns.items():
            path, candidate = candidates[key]
            row = {
                'detector': candidate.name,
                'dtype': str(candidate.dtype).removeprefix('torch.'),
                'size': list(size),
                'batch': batch,
                'mode': mode,
                'parameters': sum(p.numel() for p in candidate.model.parameters()),
                'gflops': counted[candidate.name, size],
                **summary(times, first, batch, 'model' if mode == 'infer' else None),
            }
            if settings.memory:
                row['memory_mib'] = _memory(settings, path, candidate, size, batch, mode, report, fail)
            rows.append(row)
        yield rows


def _build_all(settings: Settings, report: Report, fail: Fail) -> Iterator[tuple[str, Candidate]]:
    for dtype in settings.dtypes:
        for path, checkpoint, name in zip(settings.paths, settings.checkpoints, settings.names, strict=True):
            report(f'building {path}', 1)
            try:
                yield path, build(path, checkpoint, settings.device, getattr(torch, dtype), name)
            except Exception as error:  # whatever a config or a model of others raises
                fail(path, error)


def _take_turns(
    settings: Settings,
    candidates: list[tuple[str, Candidate]],
    size: tuple[int, int],
    batch: int,
    mode: str,
    report: Report,
    fail: Fail,
) -> dict[int, list[Stages]]:
    """Times of every round of every candidate; one that fails is left out of all."""
    steps: dict[int, Callable[[], Stages]] = {}
    for key, (path, candidate) in enumerate(candidates):
        try:
            inputs = Inputs(size, batch, settings.objects, num_classes(candidate.config.model), settings.images)
            if mode == 'train':
                steps[key] = partial(Trainer(candidate).step, inputs)
            else:
                steps[key] = partial(infer, candidate, inputs)
        except Exception as error:
            fail(path, error)
    times: dict[int, list[Stages]] = {key: [] for key in steps}
    for number in range(settings.warmup + settings.rounds):
        for key in list(steps):
            path, candidate = candidates[key]
            report(f'{mode} {candidate.name} {size[0]}x{size[1]}, batch {batch}', 1)
            try:
                stages = steps[key]()
            except Exception as error:
                fail(path, error)
                del steps[key], times[key]
                continue
            if number >= settings.warmup:
                times[key].append(stages)
    return times


def summary(times: list[Stages], first: list[Stages] | None, batch: int, only: str | None) -> dict[str, Any]:
    """Medians of the stages, of their sum, and of the ratio to the first detector, round by round.

    Args:
        times: seconds of the stages, one dict a round.
        first: those of the first detector; None where it could not be measured.
        batch: images of a round.
        only: the stage that is compared and that images a second are counted for; None for the sum.

    Returns:
        The row's numbers: ``[median, lower quartile, upper quartile]`` each.
    """

    def compared(stages: Stages) -> float:
        return stages[only] if only else sum(stages.values())

    return {
        'stages': {stage: spread([stages[stage] for stages in times]) for stage in times[0]},
        'total': spread([sum(stages.values()) for stages in times]),
        'images_a_second': spread([batch / compared(stages) for stages in times]),
        'images_a_second_in_all': spread([batch / sum(stages.values()) for stages in times]),
        'times_first': first and spread([compared(a) / compared(b) for a, b in zip(first, times, strict=True)]),
    }


def spread(values: list[float]) -> list[float]:
    """Median and quartiles."""
    if len(values) == 1:
        return values * 3
    lower, median, upper = statistics.quantiles(values, n=4, method='inclusive')
    return [median, lower, upper]


def _memory(
    settings: Settings,
    path: str,
    candidate: Candidate,
    size: tuple[int, int],
    batch: int,
    mode: str,
    report: Report,
    fail: Fail,
) -> float | None:
    report(f'memory of {candidate.name} {size[0]}x{size[1]}, batch {batch}', 1)
    try:
        return peak_mib(
            path=path,
            mode=mode,
            device=settings.device,
            dtype=str(candidate.dtype).removeprefix('torch.'),
            size=size,
            batch=batch,
            objects=settings.objects,
            threads=torch.get_num_threads(),
        )
    except RuntimeError as error:
        fail(path, error)
        return None


def _gflops(
    candidate: Candidate, size: tuple[int, int], settings: Settings, report: Report, fail: Fail
) -> float | None:
    report(f'operations of {candidate.name}', 0)
    try:
        return gflops(candidate, Inputs(size, 1, settings.objects, 1, settings.images))
    except Exception as error:
        fail(candidate.name, error)
        return None
