"""Memory that one detector needs at most, measured in a process of its own.

    python -m mmdet_detr.benchmark.memory '{"path": CONFIG, ...}'

prints the number of MiB: of CUDA's allocator, or what the process holds more at its peak than before the model was
built.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import register_all_modules

from .candidates import build
from .inputs import Inputs
from .stages import Trainer, infer

STEPS = 2
MIB = 2**20


def peak_mib(**settings: Any) -> float:
    """Run :func:`measure` in a fresh process.

    Raises:
        RuntimeError: the process failed; the message is the last line that it wrote.
    """
    command = [sys.executable, '-m', 'mmdet_detr.benchmark.memory', json.dumps(settings)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError((finished.stderr.strip().splitlines() or ['killed'])[-1])
    return float(finished.stdout.split()[-1])


def measure(
    path: str,
    mode: str,
    device: str,
    dtype: str,
    size: tuple[int, int],
    batch: int,
    objects: int,
    threads: int,
) -> float:
    """MiB at the peak of a few steps of ``mode``, 'train' or 'infer'."""
    torch.set_num_threads(threads)
    warm_up(device)
    before = resident_mib()
    candidate = build(path, None, device, getattr(torch, dtype))
    inputs = Inputs((size[0], size[1]), batch, objects, 1)
    trainer = Trainer(candidate) if mode == 'train' else None
    for _ in range(STEPS):
        if trainer:
            trainer.step(inputs)
        else:
            infer(candidate, inputs)
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def warm_up(device: str) -> None:
    """Load what every detector needs, so that it does not count as a detector's memory."""
    register_all_modules()
    layer = torch.nn.Conv2d(8, 8, 3).to(device)
    layer(torch.zeros(1, 8, 32, 32, device=device)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()


def resident_mib() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / MIB


if __name__ == '__main__':
    with contextlib.redirect_stdout(sys.stderr):
        mib = measure(**json.loads(sys.argv[1]))
    print(mib)
