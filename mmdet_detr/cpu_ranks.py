"""Several processes on a machine without a GPU, which mmengine's launcher takes for granted."""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import utils
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import runner


class _DataParallel(MMDistributedDataParallel):
    """Without device numbers, which PyTorch refuses for a model on the CPU."""

    def __init__(self, module: torch.nn.Module, *, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)


def allow_ranks_on_cpu() -> None:
    """Let ``--launcher pytorch`` work on CPUs, by the gloo backend; nothing changes where there is an accelerator."""
    if get_device() != 'cpu':
        return

    def join(backend: str, init_backend: str = 'torch', **kwargs: Any) -> None:
        dist.init_process_group('gloo', **kwargs)

    utils._init_dist_pytorch = join
    runner.MMDistributedDataParallel = _DataParallel
    MODEL_WRAPPERS.register_module(name='MMDistributedDataParallel', module=_DataParallel, force=True)
