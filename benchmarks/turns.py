"""Detectors that take turns on a device: speed by stages, memory at the peak, copies between host and device."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.profiler import ProfilerActivity, profile

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.errors import ConfigError
from mmdet_detr.speed.candidates import Candidate, build, num_classes, read_config
from mmdet_detr.speed.inputs import Inputs
from mmdet_detr.speed.memory import MIB
from mmdet_detr.speed.run import summary
from mmdet_detr.speed.stages import Stages, Trainer, infer

OBJECTS = 8  # an image
WARMUP = 3  # rounds that are not timed
LEAST_ROUNDS = 3  # quartiles of fewer rounds say nothing
COPIES = {'to_host': 'DtoH', 'to_device': 'HtoD', 'waits': 'cudaStreamSynchronize'}  # the profiler's names
Row = dict[str, Any]


class OutOfTime(ConfigError):
    """The time for the whole measurement is over."""


@dataclass(eq=False)
class Detector:
    """A detector with random weights, built when it is first used."""

    path: str
    dtype: str
    device: str
    compiled_in: Path | None = None  # the folder for a config in which the transformer is compiled

    @cached_property
    def candidate(self) -> Candidate:
        path = self.path
        if self.compiled_in:
            config = read_config(path)
            config.model.neck.compile = True
            path = str(self.compiled_in / f'{Path(path).stem}_compiled.py')
            config.dump(path)
        return build(path, None, self.device, getattr(torch, self.dtype))

    @property
    def title(self) -> str:
        return f'{Path(self.path).stem}{" compiled" if self.compiled_in else ""}, {self.dtype}'

    def inputs(self, size: tuple[int, int], batch: int) -> Inputs:
        return Inputs(size, batch, OBJECTS, num_classes(self.candidate.config.model))


def take_turns(
    detectors: list[Detector],
    mode: str,
    size: tuple[int, int],
    batch: int,
    rounds: int,
    end: float,
    fail: Callable[[Detector, Exception], None],
) -> dict[Detector, Row]:
    """Time all detectors round by round, and compare them with the first.

    Args:
        detectors: what to measure; one that fails is left out.
        mode: 'train' or 'infer'.
        size: (height, width) in pixels.
        batch: images in a batch.
        rounds: timed rounds.
        end: no round begins after this time of ``time.monotonic``.
        fail: called with a detector that fails, and the exception.

    Returns:
        A row of ``mmdet_detr.reports.speed`` for each detector.

    Raises:
        OutOfTime: fewer than three rounds were possible.
    """
    steps: dict[Detector, Callable[[], Stages]] = {}
    memory: dict[Detector, float | None] = {}
    for detector in detectors:
        try:
            candidate, inputs = detector.candidate, detector.inputs(size, batch)
            trainer = Trainer(candidate) if mode == 'train' else None
            step = partial(trainer.step, inputs) if trainer else partial(infer, candidate, inputs)
            for _ in range(WARMUP):
                step()
            memory[detector] = peak_mib(step, candidate, trainer)
            steps[detector] = step
        except Exception as error:  # whatever a model, a compiler or a device raises
            fail(detector, error)
            if detector.device == 'cuda':
                torch.cuda.empty_cache()
    times: dict[Detector, list[Stages]] = {detector: [] for detector in steps}
    for done in track(range(rounds), description=f'{mode}, batch {batch}'):
        if time.monotonic() > end:
            if done < LEAST_ROUNDS:
                raise OutOfTime(f'no time left after {done} of {rounds} rounds')
            break
        for detector, step in steps.items():
            times[detector].append(step())
    compared = 'model' if mode == 'infer' else None
    return {
        detector: {
            'detector': detector.candidate.name,
            'dtype': detector.dtype,
            'size': list(size),
            'batch': batch,
            'mode': mode,
            'parameters': sum(p.numel() for p in detector.candidate.model.parameters()),
            'memory_mib': memory[detector],
            **summary(measured, times.get(detectors[0]), batch, compared),
        }
        for detector, measured in times.items()
    }


def peak_mib(step: Callable[[], Stages], candidate: Candidate, trainer: Trainer | None) -> float | None:
    """MiB of CUDA's allocator at the peak of a step, without what other detectors hold; None on the CPU."""
    if candidate.device.type != 'cuda':
        return None
    tensors = [*candidate.model.parameters(), *candidate.model.buffers()]
    if trainer:
        states = trainer.wrapper.optimizer.state.values()
        tensors += [value for state in states for value in state.values() if torch.is_tensor(value) and value.is_cuda]
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before + own) / MIB


def count_copies(detector: Detector, size: tuple[int, int], batch: int) -> Row:
    """Copies between host and device in one training step, from the files of the images to the optimizer."""
    trainer, inputs = Trainer(detector.candidate), detector.inputs(size, batch)
    for _ in range(WARMUP):
        trainer.step(inputs)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if detector.device == 'cuda' else [])]
    with profile(activities=activities) as profiler:
        trainer.step(inputs)
    counts = {kind: sum(part in event.name for event in profiler.events()) for kind, part in COPIES.items()}
    return {'detector': detector.candidate.name, 'batch': batch, **counts}
