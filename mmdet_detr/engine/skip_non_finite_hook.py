"""Skips optimizer steps that would ruin the weights."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ..log import warn
from ..models.matching.targets import image_name
from ..registry import HOOKS


@HOOKS.register_module()
class SkipNonFiniteHook(Hook):
    """Skips optimizer steps with gradients that are NaN or infinite, and stops a run that only has such steps.

    The hook checks the gradients and not the loss: the gradients change the weights, they are the same on all ranks,
    and accumulated gradients contain every iteration of the step. A forward pass of NaN also ruins the statistics of
    batch normalisation, so the hook restores them from the last good step. The means in the log leave out losses that
    are not finite. Steps that a gradient scaler skips count as well.

    Args:
        max_consecutive: number of skipped steps in a row that ends the run. A gradient scaler that starts at its
            default scale may skip a dozen steps before the first good one.

    Raises:
        ValueError: ``max_consecutive`` is less than 1.
        RuntimeError: in training, after ``max_consecutive`` skipped steps in a row.
    """

    priority = 'HIGHEST'  # before the hook that collects the losses for the log

    def __init__(self, max_consecutive: int = 50) -> None:
        if max_consecutive < 1:
            raise ValueError(f'max_consecutive must be at least 1, got {max_consecutive}')
        self.max_consecutive = max_consecutive
        self.skipped = 0  # in the whole run
        self._handles: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        """Forget all but ``skipped``: a run that failed may have left its state."""
        while self._handles:
            self._handles.pop().remove()
        self._in_a_row = 0
        self._images: list[str] = []  # images since the last good step
        # For each optimizer that steps in this iteration, whether its gradients are finite. If a scaler skips the step,
        # the list stays empty.
        self._steps: list[bool] = []
        # Buffers of batch normalisation, with their last good values.
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        self._reset()
        for wrapper in _wrappers(runner):
            if isinstance(wrapper.optimizer, Optimizer):
                self._handles.append(wrapper.optimizer.register_step_pre_hook(self._before_step))
            else:
                kind = type(wrapper.optimizer).__name__
                warn(f'SkipNonFiniteHook cannot check the gradients of {kind}: it is not a torch.optim.Optimizer')

    def after_train(self, runner: Runner) -> None:
        self._reset()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if not self._statistics:
            self._statistics = [
                (buffer, buffer.clone())
                for module in runner.model.modules()
                if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
                for buffer in module.buffers(recurse=False)
            ]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not self._handles:
            return
        samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
        self._images += [image_name(sample.metainfo) for sample in samples if hasattr(sample, 'metainfo')]
        if not any(wrapper.should_update() for wrapper in _wrappers(runner)):
            return  # the step comes in a later iteration, with accumulated gradients
        good, self._steps = bool(self._steps) and all(self._steps), []
        if good:
            self._in_a_row, self._images, self._statistics = 0, [], []
            return
        for buffer, last_good in self._statistics:
            buffer.copy_(last_good)
        for name, value in list((outputs or {}).items()):
            if not torch.as_tensor(value).isfinite().all():
                del outputs[name]
        self.skipped += 1
        self._in_a_row += 1
        images = f'Images since the last good step: {", ".join(self._images[-20:])}.'
        if self._in_a_row >= self.max_consecutive:
            raise RuntimeError(
                f'{self._in_a_row} steps in a row had gradients that are not finite, up to iteration {runner.iter + 1}:'
                f' the run cannot recover. {images} docs/troubleshooting.md lists the usual causes.'
            )
        if self._in_a_row == 1:
            skipped = f'its gradients are not finite (skipped so far: {self.skipped})'
            warn(f'Iteration {runner.iter + 1} skipped: {skipped}. {images}')

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        gradients = [p.grad for p in parameters if p.grad is not None]
        gradients = [grad.coalesce().values() if grad.is_sparse else grad for grad in gradients]
        magnitude = torch.zeros((), device=parameters[0].device)
        for norm in torch._foreach_norm(gradients, math.inf) if gradients else ():
            magnitude += norm.to(magnitude)
        all_reduce(magnitude)  # with sharded parameters, a rank sees only its own part of the gradients
        self._steps.append(bool(torch.isfinite(magnitude)))
        if not self._steps[-1]:
            for parameter in parameters:
                parameter.grad = None  # optimizers ignore parameters without a gradient


def _wrappers(runner: Runner) -> list[OptimWrapper]:
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
