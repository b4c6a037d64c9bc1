"""Measures the peak memory of one detector in a process of its own.

    python -m mmdet_detr.speed.memory '{"path": CONFIG, ...}'

prints MiB: the peak of CUDA's allocator, or on a CPU the growth of the process since before the model was built.
"""

import contextlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import register_all_modules

from ..errors import ConfigError
from .candidates import build
from .inputs import Inputs
from .stages import Trainer, infer

STEPS = 2
MIB = 2**20


def peak_mib(**settings: Any) -> float:
    """Run :func:`measure` in a fresh process.

    Raises:
        RuntimeError: the process failed. The message is its last line on stderr.
    """
    command = [sys.executable, '-m', 'mmdet_detr.speed.memory', json.dumps(settings)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError((finished.stderr.strip().splitlines() or ['the process was killed (out of memory?)'])[-1])
    return float(finished.stdout.split()[-1])


def measure(
    path: str, mode: str, device: str, dtype: str, size: tuple[int, int], batch: int, objects: int, threads: int
) -> float:
    """MiB at the peak of a few steps. ``mode`` is 'train' or 'infer'."""
    torch.set_num_threads(threads)
    # Libraries that every detector needs do not count as memory of the detector: load them first.
    register_all_modules()
    layer = torch.nn.Conv2d(8, 8, 3).to(device)
    layer(torch.zeros(1, 8, 32, 32, device=device)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()
    before = 0.0 if device.startswith('cuda') else reset_peak()
    candidate = build(path, None, device, getattr(torch, dtype))
    inputs = Inputs((size[0], size[1]), batch, objects, 1, masks=candidate.with_masks)
    step = Trainer(candidate).step if mode == 'train' else partial(infer, candidate)
    for _ in range(STEPS):
        step(inputs)
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated(device) / MIB
    return status_mib('VmHWM') - before


def reset_peak() -> float:
    """Reset the peak of the resident set, because a process inherits it from its parent. Returns MiB held now.

    Raises:
        ConfigError: this system is not Linux.
    """
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError as error:
        raise ConfigError('memory on a CPU is measured on Linux only') from error
    return status_mib('VmRSS')


def status_mib(name: str) -> float:
    """MiB of an entry in /proc/self/status, such as VmRSS (the resident set) or VmHWM (its peak)."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f'{name}:')).split()[1]) / 1024


if __name__ == '__main__':
    with contextlib.redirect_stdout(sys.stderr):
        mib = measure(**json.loads(sys.argv[1]))
    print(mib)
