"""A run that was interrupted ends with the weights of one that was not."""

from collections.abc import Sequence

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler

from ..datasets.seeded_sampler import SeededSampler
from ..log import warn
from ..randomness import seed_all
from ..registry import HOOKS


@HOOKS.register_module()
class ReproducibleHook(Hook):
    """Makes every iteration draw what it would draw in an uninterrupted run, and finishes an interrupted epoch.

    The random numbers of an iteration (dropout) are seeded by the run's seed, the rank and the iteration; those of a
    sample (augmentation) by its draw, if the data loader has a :class:`~mmdet_detr.datasets.SeededSampler`. The seed of
    a run is in its checkpoints: after ``--resume`` it is the same, even where the config names none. mmengine resumes
    the order of epochs only, and by iterations only where the seed is given.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        self._sampler = loop.dataloader.sampler
        if not isinstance(self._sampler, SeededSampler):
            self._sampler = getattr(loop.dataloader.batch_sampler, 'sampler', None)
        if not isinstance(self._sampler, SeededSampler):
            warn('the data loader has no SeededSampler: after a resume, images and augmentation are others')
            self._sampler = None
        elif self._sampler.seed != runner.seed:  # resumed from a run of another seed
            self._sampler.seed = runner.seed
            if hasattr(loop, 'dataloader_iterator'):  # which may have drawn already
                loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)

    def before_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or self._sampler is None:
            return  # a loop by iterations skips for itself what is done
        done = runner.iter - runner.epoch * len(loop.dataloader)
        if done <= 0:
            return
        batches = loop.dataloader.batch_sampler
        if type(batches) is BatchSampler:
            runner.logger.info(f'the first {done} batches of epoch {runner.epoch + 1} are done')
            self._sampler.skip(done * batches.batch_size)
        else:
            warn(f'{type(batches).__name__} cannot go on within an epoch: epoch {runner.epoch + 1} starts anew')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None) -> None:
        seed_all((runner.seed, get_rank(), runner.iter))
