"""Steps that would ruin the weights are skipped."""

import math
from collections.abc import Sequence
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
    """Skips optimizer steps whose gradients are NaN or infinite, and stops a run that has nothing else to offer.

    Looks at the gradients, not at the loss: they are what reaches the weights, they are the same on all ranks, and
    with accumulated gradients they remember every iteration. The statistics of batch normalisation, which a forward
    pass of NaN ruins as well, go back to those of the last good step, and the log leaves such an iteration's losses
    out of its means. A gradient scaler skips such steps by itself; they count as well.

    Args:
        max_consecutive: a RuntimeError ends the run after so many skipped steps in a row. A gradient scaler that
            starts at its default scale may need a dozen before the first step.
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
        """Forget all but the number of skipped steps; a run that ended by an exception has left more."""
        while self._handles:
            self._handles.pop().remove()
        self._in_a_row = 0
        self._images: list[str] = []  # of the steps in a row
        self._steps: list[bool] = []  # of this iteration's optimizers, True for those taken; a scaler leaves none
        self._statistics: list[tuple[Tensor, Tensor]] = []  # buffers of batch normalisation, and their last good values

    def before_train(self, runner: Runner) -> None:
        self._reset()
        for wrapper in _wrappers(runner):
            if isinstance(wrapper.optimizer, Optimizer):
                self._handles.append(wrapper.optimizer.register_step_pre_hook(self._before_step))
            else:
                warn(f'SkipNonFiniteHook cannot watch {type(wrapper.optimizer).__name__}, which is no torch Optimizer')

    def after_train(self, runner: Runner) -> None:
        self._reset()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None) -> None:
        if not self._statistics:
            self._statistics = [
                (buffer, buffer.clone())
                for module in runner.model.modules()
                if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
                for buffer in module.buffers(recurse=False)
            ]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | Sequence | None = None,
        outputs: dict | None = None,
    ) -> None:
        if not self._handles:
            return
        self._images += _images_of(data_batch)
        if not any(wrapper.should_update() for wrapper in _wrappers(runner)):
            return  # gradients go on accumulating
        good, self._steps = bool(self._steps) and all(self._steps), []
        if good:
            self._in_a_row, self._images, self._statistics = 0, [], []
            return
        for buffer, last_good in self._statistics:
            buffer.copy_(last_good)
        outputs = outputs or {}
        for name in [name for name, value in outputs.items() if not torch.as_tensor(value).isfinite().all()]:
            del outputs[name]
        self.skipped += 1
        self._in_a_row += 1
        concerned = f'Images since the last good step: {", ".join(self._images[-20:])}.'
        if self._in_a_row >= self.max_consecutive:
            raise RuntimeError(
                f'{self._in_a_row} steps in a row had gradients that are not finite, up to iteration {runner.iter + 1}:'
                f' the run cannot recover. {concerned} docs/troubleshooting.md lists the usual causes.'
            )
        if self._in_a_row == 1:
            warn(
                f'Iteration {runner.iter + 1} skipped: its gradients are not finite (skipped so far: {self.skipped}). '
                f'{concerned}'
            )

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        gradients = [p.grad for p in parameters if p.grad is not None]
        gradients = [grad.coalesce().values() if grad.is_sparse else grad for grad in gradients]
        magnitude = torch.zeros((), device=parameters[0].device)
        for norm in torch._foreach_norm(gradients, math.inf) if gradients else ():
            magnitude += norm.to(magnitude)
        all_reduce(magnitude)  # with sharded parameters, each rank sees its own gradients only
        self._steps.append(bool(torch.isfinite(magnitude)))
        if not self._steps[-1]:
            for parameter in parameters:
                parameter.grad = None  # which an optimizer passes over


def _wrappers(runner: Runner) -> list[OptimWrapper]:
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _images_of(data_batch: dict | Sequence | None) -> list[str]:
    samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
    return [image_name(sample.metainfo) for sample in samples if hasattr(sample, 'metainfo')]
