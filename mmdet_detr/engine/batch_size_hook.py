"""Warns about a learning rate that does not fit the batch size."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..log import warn
from ..registry import HOOKS

FACTOR = 2  # of the base batch size


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """Warns if a step sees half or twice the images that the learning rate was chosen for, or beyond.

    The hook compares with ``auto_scale_lr.base_batch_size``. It is silent if that is missing, or if scaling is on.
    """

    def before_train(self, runner: Runner) -> None:
        scaling = runner.cfg.get('auto_scale_lr') or {}
        base = scaling.get('base_batch_size')
        if not base or scaling.get('enable'):
            return
        loader = runner.train_dataloader
        per_process = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
        if not per_process:
            return
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        images = per_process * runner.world_size * accumulated
        if not base / FACTOR < images < base * FACTOR:
            by_hand = f'multiply it by {images / base:g} (--auto-scale-lr does not count accumulated gradients)'
            advice = 'add --auto-scale-lr to the command' if accumulated == 1 else by_hand
            warn(
                f'A step sees {images} images ({per_process} x {runner.world_size} processes x {accumulated} '
                f'accumulated), but the learning rate is chosen for {base} images: {advice}.'
            )
