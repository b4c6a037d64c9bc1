"""Learning rate and batch size belong together."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..log import warn
from ..registry import HOOKS


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """Warns where a step sees far more or fewer images than the learning rate was chosen for, and scaling is off.

    Reads ``auto_scale_lr`` of the config; without ``base_batch_size`` there it is silent.

    Args:
        factor: how many times more or fewer images are far.
    """

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

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
        if not base / self.factor < images < base * self.factor:
            by_hand = f'multiply it by {images / base:g}, for --auto-scale-lr does not count accumulation'
            advice = '--auto-scale-lr makes it fit' if accumulated == 1 else by_hand
            warn(
                f'A step sees {images} images ({per_process} x {runner.world_size} processes x {accumulated} '
                f'accumulated), and the learning rate is meant for {base}: {advice}.'
            )
