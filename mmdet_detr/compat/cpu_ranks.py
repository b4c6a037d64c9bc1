"""Run several processes on a machine without a GPU, although mmengine's launchers assume one."""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import utils
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import runner


class _DataParallel(MMDistributedDataParallel):
    """Passes no device numbers, because PyTorch refuses them for a model on the CPU."""

    def __init__(self, module: torch.nn.Module, *, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)


def allow_ranks_on_cpu() -> None:
    """Let the launchers pytorch and slurm work on CPUs, by the gloo backend; nothing changes with an accelerator."""
    if get_device() != 'cpu':
        return

    def join(backend: str, init_backend: str = 'torch', **kwargs: Any) -> None:
        dist.init_process_group('gloo', **kwargs)

    join_by_slurm = utils._init_dist_slurm
    utils._init_dist_pytorch = join
    utils._init_dist_slurm = lambda backend, **kwargs: join_by_slurm('gloo', **kwargs)
    torch.cuda.set_device = lambda device: None  # called by join_by_slurm
    runner.MMDistributedDataParallel = _DataParallel
    MODEL_WRAPPERS.register_module(name='MMDistributedDataParallel', module=_DataParallel, force=True)
