"""Muon for hidden matrices and AdamW for everything else, in one optimizer, and the sorting of the parameters."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import AdamW

from ..errors import ConfigError
from ..models import DETRHead, MaskHead, TransformerNeck
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

# Coefficients of the quintic iteration and the number of its steps: github.com/KellerJordan/Muon.
QUINTIC = (3.4445, -4.7750, 2.0315)
NUM_STEPS = 5
ADAMW = {'lr': 1e-3, 'weight_decay': 1e-2}  # PyTorch's defaults
MUON = {'lr': 0.02, 'weight_decay': 0.01, 'momentum': 0.95, 'backbone': True}


@OPTIMIZERS.register_module()
class Muon(AdamW):
    """AdamW, but momentum that is made orthogonal for groups of parameters with ``blocks``.

    A matrix moves by the nearest orthogonal matrix to its momentum (Nesterov's), times the square root of rows over
    columns where it is tall; all its singular directions move alike, also those with small gradients. A convolution
    counts as a matrix (out, in * k * k). ``torch.optim.Muon`` is not used, because it orthogonalises matrices one by
    one in bfloat16: ten times slower on a processor without this type.

    Args:
        params: groups as AdamW's. A group with ``blocks`` is moved by Muon: every parameter consists of so many
            matrices, one above the other, as in projections of query, key and value. It has ``momentum`` besides ``lr``
            and ``weight_decay``.
        kwargs: as AdamW's.

    Raises:
        ConfigError: ``fused`` is true; or, in a step, a matrix is not whole, as under FSDP or DeepSpeed's ZeRO.
    """

    def __init__(self, params: Iterable[dict[str, Any]], **kwargs: Any) -> None:
        if kwargs.pop('fused', False):  # It would have GradScaler leave steps with infinite gradients to the optimizer.
            raise ConfigError('Muon does not take fused=True: leave it out of optim_wrapper.optimizer')
        super().__init__(params, **{'foreach': True, **kwargs})  # On a CPU, PyTorch's default is half as fast.

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters once."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if 'blocks' not in group]
        try:
            # AdamW's step without PyTorch's wrapper, which would call the hooks of this optimizer a second time.
            loss = inspect.unwrap(AdamW.step)(self, closure)
        finally:
            self.param_groups = groups
        for shape_parts in self._directions(group for group in groups if 'blocks' in group).values():
            directions = orthogonal(torch.stack([direction for *_, direction in shape_parts]))
            for (group, part, _), direction in zip(shape_parts, directions, strict=True):
                rows, columns = direction.shape
                part.mul_(1 - group['lr'] * group['weight_decay'])
                part.add_(direction.view_as(part), alpha=-group['lr'] * max(1, rows / columns) ** 0.5)
        return loss

    def _directions(self, groups: Iterator[dict]) -> dict[torch.Size, list[tuple[dict, Tensor, Tensor]]]:
        """Update the momenta. Returns group, part of a parameter and direction (rows, columns) of all, by shape."""
        by_shape = defaultdict(list)
        for group in groups:
            for parameter in group['params']:
                if parameter.grad is None:
                    continue
                if parameter.dim() < 2:
                    raise ConfigError('Muon needs whole matrices, but they are sharded: use AdamW with FSDP or ZeRO')
                state, gradient = self.state[parameter], parameter.grad
                if not state:  # AdamW expects a step in every state that it reads from a checkpoint.
                    state |= {'step': torch.zeros(()), 'momentum_buffer': torch.zeros_like(gradient)}
                state['momentum_buffer'].lerp_(gradient, 1 - group['momentum'])
                direction = gradient.lerp(state['momentum_buffer'], group['momentum'])
                parts = zip(parameter.chunk(group['blocks']), direction.chunk(group['blocks']), strict=True)
                for part, matrix in parts:
                    matrix = matrix.flatten(1)
                    by_shape[matrix.shape].append((group, part, matrix))
        return by_shape


def orthogonal(matrices: Tensor) -> Tensor:
    """Roughly the nearest orthogonal matrices to matrices (N, rows, columns): singular values of 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    linear, cubic, quintic = QUINTIC
    for _ in range(NUM_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x.mT if tall else x


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MuonConstructor(DefaultOptimWrapperConstructor):
    """Gives :class:`Muon` the hidden matrices of a DETR, and AdamW's rule to all other parameters.

    Hidden matrices are those of encoder and decoder, the input projection, the box branch and the mask head without
    their last layers, and the convolutions of the backbone without the stem.

    Args:
        optim_wrapper_cfg: ``optimizer=dict(type='mmdet_detr.Muon', lr=..., weight_decay=...)`` with AdamW's settings,
            and ``muon`` with those of the matrices: ``lr``, ``weight_decay``, ``momentum``, and ``backbone``, which is
            False for pretrained backbones.
        paramwise_cfg: as of mmengine's constructor; ``lr_mult`` and ``decay_mult`` hold for the matrices too.

    Raises:
        ConfigError: the optimizer is another one, the model is sharded by FSDP, or ``muon`` has another setting.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.muon = {**MUON, **optim_wrapper_cfg.pop('muon', {})}
        optim_wrapper_cfg['optimizer'] = {**ADAMW, **optim_wrapper_cfg['optimizer']}
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        if self.muon.keys() != MUON.keys():
            raise ConfigError(f'muon takes {", ".join(MUON)}, not {", ".join(self.muon.keys() - MUON.keys())}')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper of an optimizer over the trainable parameters of a model."""
        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            raise ConfigError('Muon needs whole matrices and FSDP shards them: use AdamW')
        model = getattr(model, 'module', model)
        blocks = dict(hidden_matrices(model, self.muon['backbone']))
        groups: list[dict] = []
        self.add_params(groups, model)
        merged: dict[tuple, dict] = {}
        for group in groups:
            (parameter,) = group['params']
            settings = {'lr': self.base_lr, 'weight_decay': self.base_wd, **group, 'params': None}
            if parameter in blocks:
                settings |= {
                    'blocks': blocks[parameter],
                    'momentum': self.muon['momentum'],
                    'lr': self.muon['lr'] * _ratio(settings['lr'], self.base_lr),
                    'weight_decay': self.muon['weight_decay'] * _ratio(settings['weight_decay'], self.base_wd),
                }
            merged.setdefault(tuple(settings.items()), {**settings, 'params': []})['params'].append(parameter)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': list(merged.values())})
        if not isinstance(optimizer, Muon):
            raise ConfigError(f'MuonConstructor needs the optimizer mmdet_detr.Muon, not {type(optimizer).__name__}')
        wrapper = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(wrapper, default_args={'optimizer': optimizer})


def _ratio(value: float, base: float) -> float:
    """The multiplier that paramwise_cfg has given a parameter."""
    return value / base if base else 1.0


def hidden_matrices(model: nn.Module, backbone: bool) -> Iterator[tuple[nn.Parameter, int]]:
    """The parameters for Muon, each with the number of matrices that it consists of."""
    for name, module in model.named_modules():
        if isinstance(module, TransformerNeck):
            for part in (module.encoder, module.decoder):
                for kind, parameter in part.named_parameters():
                    if parameter.dim() == 2:
                        yield parameter, 3 if kind.endswith('in_proj_weight') else 1
            yield from ((parameter, 1) for parameter in module.input_proj.parameters() if parameter.dim() == 4)
        elif isinstance(module, DETRHead):
            yield from ((layer.weight, 1) for layer in module.bbox_embed.layers[:-1])  # type: ignore[misc]
        elif isinstance(module, MaskHead):
            matrices = (parameter for kind, parameter in module.named_parameters() if not kind.startswith('out_lay'))
            yield from ((matrix, 1) for matrix in matrices if matrix.dim() > 1)
        elif backbone and 'backbone' in name.split('.') and _is_dense_convolution(module):
            yield module.weight, 1


def _is_dense_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution with one large matrix: neither depthwise nor the stem."""
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels > 3
