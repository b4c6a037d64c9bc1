"""Measures detectors: they take turns, round by round, in one process."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .candidates import Candidate, build, is_exported, names_of, num_classes
from .flops import gflops
from .inputs import Inputs
from .malloc import give_freed_memory_back
from .memory import peak_mib
from .stages import Stages, Trainer, infer

# Inference is measured first, because training changes the weights.
MODES = {'train': ('train',), 'infer': ('infer',), 'both': ('infer', 'train')}


class Case(NamedTuple):
    """What all detectors of one table have in common."""

    size: tuple[int, int]  # (height, width) in pixels
    batch: int  # images
    mode: str  # 'infer' or 'train'

    def __str__(self) -> str:
        return f'{self.size[0]}x{self.size[1]}, batch {self.batch}'


@dataclass
class Settings:
    """What to measure."""

    paths: list[str]  # configs of the detectors
    checkpoints: list[str | None]  # weights of each detector; None for random weights
    device: str = 'cpu'
    dtypes: list[str] = field(default_factory=lambda: ['float32'])  # of autocast; 'float32' for none
    sizes: list[tuple[int, int]] = field(default_factory=lambda: [(800, 1066)])  # (height, width) in pixels
    batches: list[int] = field(default_factory=lambda: [1])
    mode: str = 'both'  # a key of MODES
    rounds: int = 10  # that are timed
    warmup: int = 2  # rounds before them
    objects: int = 8  # boxes in an image
    images: Path | None = None  # folder of images; None for generated ones
    memory: bool = True  # whether to measure the peak of memory, in a process of its own for every row

    @property
    def names(self) -> list[str]:
        """Names of the detectors in tables."""
        return names_of(self.paths)

    @property
    def cases(self) -> list[Case]:
        """The cases in the order in which they are measured."""
        return [Case(size, batch, mode) for mode, size, batch in product(MODES[self.mode], self.sizes, self.batches)]

    @property
    def steps(self) -> int:
        """Number of steps that :func:`run` reports if nothing fails."""
        return sum(self._steps_of(path) for path in self.paths)

    def _steps_of(self, path: str) -> int:
        exported = is_exported(path)  # it has one type and is not trained
        cases = [case for case in self.cases if case.mode == 'infer' or not exported]
        rows = 1 if exported else len(self.dtypes)
        return rows * (1 + len(cases) * (self.warmup + self.rounds + self.memory))


Report = Callable[[str, int], None]  # called with a text about the next step, and the number of steps it counts for
Fail = Callable[[str, BaseException], None]  # called with the name of a detector that failed, and its exception


def run(settings: Settings, report: Report, fail: Fail) -> Iterator[list[dict[str, Any]]]:
    """Measure all detectors. If one fails, the others are measured all the same.

    Yields:
        After every case, the rows so far: one for each detector, type and case, with times in seconds and memory in
        MiB.
    """
    measurement = _Measurement(settings, report, fail)
    detectors = measurement.build_all()
    rows: list[dict[str, Any]] = []
    for case in settings.cases:
        gflops = [None if candidate.exported else measurement.gflops(candidate, case.size) for candidate in detectors]
        turns = measurement.take_turns(detectors, case)
        give_freed_memory_back()  # the processes that measure memory need it
        first = turns.get(0) if detectors and detectors[0].name == settings.names[0] else None
        for key, times in turns.items():
            candidate = detectors[key]
            row = {
                'detector': candidate.name,
                'dtype': _name_of(candidate.dtype),
                'size': list(case.size),
                'batch': case.batch,
                'mode': case.mode,
                'parameters': None if candidate.exported else sum(p.numel() for p in candidate.model.parameters()),
                'gflops': gflops[key],
                **summary(times, first, case.batch, 'model' if case.mode == 'infer' else None),
            }
            if settings.memory:
                row['memory_mib'] = measurement.memory_mib(candidate, case)
            rows.append(row)
        yield rows


@dataclass
class _Measurement:
    """The steps of :func:`run`. Each one reports itself, and returns None if it fails."""

    settings: Settings
    report: Report
    fail: Fail
    counted: dict[tuple[str, tuple[int, int]], float | None] = field(default_factory=dict)

    def attempt(self, detector: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # configs and models of other packages can raise anything
            self.fail(detector, error)
            return None

    def build_all(self) -> list[Candidate]:
        settings, built = self.settings, []
        for number, dtype in enumerate(settings.dtypes):
            for path, checkpoint, name in zip(settings.paths, settings.checkpoints, settings.names, strict=True):
                if number and is_exported(path):  # it has one type
                    continue
                self.report(f'building {path}', 1)
                built.append(self.attempt(path, build, path, checkpoint, settings.device, getattr(torch, dtype), name))
        return [candidate for candidate in built if candidate]

    def take_turns(self, detectors: list[Candidate], case: Case) -> dict[int, list[Stages]]:
        """Seconds of every timed round, by the index of the detector. A detector that fails is left out."""
        able = {key: one for key, one in enumerate(detectors) if case.mode == 'infer' or not one.exported}
        made = {key: self.attempt(candidate.path, self._step_of, candidate, case) for key, candidate in able.items()}
        steps = {key: step for key, step in made.items() if step}
        times: dict[int, list[Stages]] = {key: [] for key in steps}
        for number in range(self.settings.warmup + self.settings.rounds):
            for key in list(times):
                self.report(f'{case.mode} {detectors[key].name} {case}', 1)
                stages = self.attempt(detectors[key].path, steps[key])
                if stages is None:
                    del times[key]
                elif number >= self.settings.warmup:
                    times[key].append(stages)
        return times

    def _step_of(self, candidate: Candidate, case: Case) -> Callable[[], Stages]:
        inputs = self._inputs(candidate, case.size, case.batch)
        return partial(Trainer(candidate).step, inputs) if case.mode == 'train' else partial(infer, candidate, inputs)

    def _inputs(self, candidate: Candidate, size: tuple[int, int], batch: int) -> Inputs:
        classes = num_classes(candidate.config.model)
        return Inputs(size, batch, self.settings.objects, classes, self.settings.images, candidate.with_masks)

    def gflops(self, candidate: Candidate, size: tuple[int, int]) -> float | None:
        """Billions of multiply-adds, counted once for all types and batches."""
        key = candidate.name, size
        if key not in self.counted:
            self.report(f'operations of {candidate.name}', 0)
            self.counted[key] = self.attempt(
                candidate.name, lambda: gflops(candidate, self._inputs(candidate, size, 1))
            )
        return self.counted[key]

    def memory_mib(self, candidate: Candidate, case: Case) -> float | None:
        """MiB at the peak, in a process of its own."""
        self.report(f'memory of {candidate.name} {case}', 1)
        more = {'device': self.settings.device, 'dtype': _name_of(candidate.dtype), 'objects': self.settings.objects}
        path, threads = candidate.path, torch.get_num_threads()
        return self.attempt(path, peak_mib, path=path, threads=threads, **case._asdict(), **more)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def summary(times: list[Stages], first: list[Stages] | None, batch: int, only: str | None) -> dict[str, Any]:
    """A row's numbers, each as [median, lower quartile, upper quartile].

    Args:
        times: seconds of the stages, one dict for each round.
        first: the same of the first detector, compared round by round; None if it could not be measured.
        batch: number of images in a round.
        only: the stage that counts for speed and for images per second; None for the sum of all stages.
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
    """Median, lower quartile and upper quartile."""
    if len(values) == 1:
        return values * 3
    lower, median, upper = statistics.quantiles(values, n=4, method='inclusive')
    return [median, lower, upper]
