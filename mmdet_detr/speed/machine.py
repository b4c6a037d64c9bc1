"""Names the machine that a measurement runs on."""

import os
import platform
from pathlib import Path

import torch


def machine(device: str) -> str:
    """The processor with its threads, or the GPU, and the version of PyTorch, in one line."""
    if device.startswith('cuda'):
        return f'{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}'
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    processor = f'{os.cpu_count()} cores of {names[0] if names else platform.machine()}'
    return f'{processor}, {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}'
