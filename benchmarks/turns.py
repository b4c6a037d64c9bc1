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


class DecodedInputs(Inputs):
    """A batch that is decoded once: in training, workers decode while the device computes."""

    @cached_property
    def decoded(self) -> dict[str, Any]:
        return super().read()

    def read(self) -> dict[str, Any]:
        return self.decoded


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

    def step(self, mode: str, size: tuple[int, int], batch: int) -> tuple[Callable[[], Stages], Trainer | None]:
        """A step of 'train' or 'infer' that was run a few times, and the trainer where there is one."""
        classes = num_classes(self.candidate.config.model)
        if mode == 'train':
            trainer = Trainer(self.candidate)
            step = partial(trainer.step, DecodedInputs(size, batch, OBJECTS, classes))
        else:
            trainer = None
            step = partial(infer, self.candidate, Inputs(size, batch, OBJECTS, classes))
        for _ in range(WARMUP):
            step()
        return step, trainer


def need(seconds: float, end: float) -> None:
    """Raise OutOfTime unless so many seconds are left before a time of ``time.monotonic``."""
    if time.monotonic() + seconds >= end:
        raise OutOfTime('no time left, see --minutes')


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
        end: nothing begins after this time of ``time.monotonic``.
        fail: called with a detector that fails, and the exception.

    Returns:
        A row of ``mmdet_detr.reports.speed`` for each detector.

    Raises:
        OutOfTime: fewer than three rounds were possible.
    """
    steps: dict[Detector, Callable[[], Stages]] = {}
    memory: dict[Detector, float | None] = {}
    for detector in detectors:
        need(0, end)
        try:
            step, trainer = detector.step(mode, size, batch)
            memory[detector] = peak_mib(step, detector.candidate, trainer)
            steps[detector] = step
        except Exception as error:  # models, compilers and devices raise errors of any kind
            fail(detector, error)
            if detector.device == 'cuda':
                torch.cuda.empty_cache()
    times: dict[Detector, list[Stages]] = {detector: [] for detector in steps}
    for done in track(range(rounds), description=f'{mode}, batch {batch}'):
        if done < LEAST_ROUNDS:
            need(0, end)
        elif time.monotonic() >= end:
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
    """Copies between host and device in one training step, from the transfer of the images to the optimizer."""
    step, _ = detector.step('train', size, batch)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if detector.device == 'cuda' else [])]
    with profile(activities=activities) as profiler:
        step()
    counts = {kind: sum(part in event.name for event in profiler.events()) for kind, part in COPIES.items()}
    return {'detector': detector.candidate.name, 'batch': batch, **counts}
