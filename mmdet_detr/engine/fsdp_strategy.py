"""Splits parameters, gradients and optimizer states among the ranks of a training."""

from typing import Any

import torch
from mmdet.models.layers import ResLayer
from mmengine._strategy import FSDPStrategy as MMEngineFSDPStrategy
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..errors import ConfigError
from ..models.transformer import DecoderLayer, EncoderLayer
from ..registry import STRATEGIES

WRAPPED = '_fsdp_wrapped_module.'  # FSDP inserts this into the names of parameters
UNITS = (ResLayer, EncoderLayer, DecoderLayer)


def wrap_layers(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP's ``auto_wrap_policy`` for DETR: FSDP gathers one ResNet stage or transformer layer at a time."""
    # Smaller units do not work: a convolution also reads the weights of the frozen batch norm that is folded into it.
    return recurse or isinstance(module, UNITS)


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineFSDPStrategy):
    """mmengine's ``FSDPStrategy`` with three corrections, and with defaults for DETR.

    Gradients are clipped by the norm over all ranks (in mmengine, each rank uses the norm of its own part). Resuming
    works with PyTorch 2.1 and later. CPUs are supported. Checkpoints have the format of a run without FSDP: runs with
    and without FSDP can continue from each other's checkpoints. The arguments are those of mmengine's strategy.

    Raises:
        ConfigError: this PyTorch has no FSDP on CPUs, and there is no GPU.
    """

    def __init__(
        self, *, model_wrapper: dict | None = None, state_dict_cfg: str | dict = 'full', **kwargs: Any
    ) -> None:
        wrapper = {'type': 'MMFullyShardedDataParallel', 'auto_wrap_policy': wrap_layers, **(model_wrapper or {})}
        if get_device() == 'cpu':
            if not hasattr(torch, 'cpu') or not hasattr(torch.cpu, 'current_device'):
                raise ConfigError(f'FSDPStrategy on CPUs needs a newer PyTorch than {torch.__version__}')
            wrapper['device_id'] = torch.device('cpu')
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        if get_device() == 'cpu':
            # On a CPU, offloading copies nothing, and FSDP would then free the parameters themselves.
            self.state_dict_config.offload_to_cpu = self.optim_state_dict_config.offload_to_cpu = False

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        # FSDP splits weights in memory order, but loads optimizer states in index order. Both agree if contiguous.
        return super()._wrap_model(model.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module | None = None) -> OptimWrapper:
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if wrapper.clip_grad_kwargs and wrapper.clip_func is nn.utils.clip_grad_norm_:

            def clip() -> None:
                norm = model.clip_grad_norm_(**wrapper.clip_grad_kwargs)  # type: ignore[operator,union-attr]
                wrapper.message_hub.update_scalar(f'train/{wrapper.grad_name}', float(norm))

            wrapper._clip_grad = clip
        return wrapper

    def optim_state_dict(self) -> dict:
        """As in mmengine, with the entries that FSDP leaves out, such as the loss scaler of mixed precision."""
        return {**self.optim_wrapper.state_dict(), **super().optim_state_dict()}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimizer states of a run with or without FSDP."""
        more = {name: value for name, value in state_dict.items() if name not in ('state', 'param_groups')}
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=self._by_name(state_dict)
        )
        self.optim_wrapper.load_state_dict({**more, **sharded})

    def _by_name(self, state_dict: dict) -> dict:
        """Optimizer states with parameter names as keys. A run without FSDP numbers its parameters."""
        names = {id(p): name.replace(WRAPPED, '') for name, p in self.model.named_parameters()}
        groups = self.optim_wrapper.optimizer.param_groups
        numbered = dict(enumerate(names[id(p)] for group in groups for p in group['params']))
        return {
            'state': {
                numbered.get(key, key): {name: value.contiguous() for name, value in state.items()}
                for key, state in state_dict['state'].items()
            },
            'param_groups': [
                {**group, 'params': [numbered.get(key, key) for key in group['params']]}
                for group in state_dict['param_groups']
            ],
        }
