"""Training with parameters, gradients and optimizer states split among ranks."""

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

WRAPPED = '_fsdp_wrapped_module.'  # in the names of parameters
UNITS = (ResLayer, EncoderLayer, DecoderLayer)


def wrap_layers(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP's ``auto_wrap_policy`` for DETR: a ResNet's stages and the transformer's layers are gathered one at a time.

    Smaller parts cannot be: a frozen batch norm is folded into the convolution before it, which reads both.
    """
    return recurse or isinstance(module, UNITS)


@STRATEGIES.register_module()
class FSDPStrategy(MMEngineFSDPStrategy):
    """mmengine's ``FSDPStrategy`` with three things mended, and with defaults for DETR.

    Gradients are clipped by the norm of all of them, not each rank's part by its own; a run can be resumed with
    PyTorch 2.1 and later; it runs on CPUs. Checkpoints are those of a run without FSDP, and either goes on from the
    other's. Takes the arguments of mmengine's strategy.
    """

    def __init__(
        self, *, model_wrapper: dict | None = None, state_dict_cfg: str | dict = 'full', **kwargs: Any
    ) -> None:
        wrapper = {'type': 'MMFullyShardedDataParallel', 'auto_wrap_policy': wrap_layers, **(model_wrapper or {})}
        if get_device() == 'cpu':
            if not hasattr(torch, 'cpu') or not hasattr(torch.cpu, 'current_device'):
                raise ConfigError(f'FSDP on CPUs needs a newer PyTorch than {torch.__version__}')
            wrapper['device_id'] = torch.device('cpu')
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        if get_device() == 'cpu':  # where nothing would be copied, and then freed
            self.state_dict_config.offload_to_cpu = self.optim_state_dict_config.offload_to_cpu = False

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        # FSDP splits weights in the order of memory, but loads an optimizer's states in that of their indices
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
        """As mmengine's, with what FSDP leaves out, such as the loss scaler of mixed precision."""
        return {**self.optim_wrapper.state_dict(), **super().optim_state_dict()}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Take the states of a run with FSDP or without."""
        more = {name: value for name, value in state_dict.items() if name not in ('state', 'param_groups')}
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=self._by_name(state_dict)
        )
        self.optim_wrapper.load_state_dict({**more, **sharded})

    def _by_name(self, state_dict: dict) -> dict:
        """The states with the names of parameters for keys; without FSDP, parameters are numbered."""
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
