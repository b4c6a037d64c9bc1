"""A run that was interrupted ends with the weights of one that was not."""

from collections.abc import Sequence

import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.dist import broadcast, get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, Dataset

from ..datasets.randomness import seed_all
from ..datasets.robust_coco_dataset import RobustCocoDataset
from ..datasets.seeded_sampler import SeededSampler
from ..log import warn
from ..registry import HOOKS

PLACE = 'place_in_epoch'  # in checkpoints: epoch, batches of it that are done, batches that it has


@HOOKS.register_module()
class ReproducibleHook(Hook):
    """Makes every iteration draw what it would draw in an uninterrupted run, and finishes an interrupted epoch.

    The random numbers of an iteration (dropout) are seeded by the run's seed, the rank and the iteration; those of a
    sample (augmentation) by its draw, if the data loader has a :class:`~mmdet_detr.datasets.SeededSampler`. The seed of
    a run is in its checkpoints: after ``--resume`` it is the same, even where the config names none. mmengine resumes
    the order of epochs only, and by iterations only where the seed is given. An epoch that was interrupted with another
    number of batches (batch size, ranks or data have changed) starts anew.
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
            return
        if not _takes_seeds(loop.dataloader.dataset):
            kind = type(loop.dataloader.dataset).__name__
            warn(f'{kind} does not augment by the seeds of SeededSampler: after a resume, augmentation is another')
        seed = torch.tensor(runner.seed)
        broadcast(seed)  # which may be another on each rank, where the order of the images must not
        if self._sampler.seed != seed:  # drawn, or resumed from a run of another seed
            self._sampler.seed = int(seed)
            if hasattr(loop, 'dataloader_iterator'):  # which may have drawn already
                loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)

    def before_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or self._sampler is None:
            return  # a loop by iterations skips for itself what is done
        batches, length = loop.dataloader.batch_sampler, len(loop.dataloader)
        epoch, done, before = runner.message_hub.runtime_info.get(PLACE, (0, 0, length))
        self._first = 0
        if epoch != runner.epoch or not 0 < done <= before:
            return
        if type(batches) is not BatchSampler:
            warn(f'{type(batches).__name__} cannot go on within an epoch: epoch {epoch + 1} starts anew')
        elif before != length:
            warn(f'epoch {epoch + 1} had {before} batches and has {length} now: it starts anew')
        else:
            runner.logger.info(f'the first {done} batches of epoch {epoch + 1} are done')
            self._sampler.start_at(done * batches.batch_size)
            self._first = done

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None) -> None:
        seed_all((runner.seed, get_rank(), runner.iter))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | Sequence | None = None, outputs: dict | None = None
    ) -> None:
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and self._sampler is not None:
            place = (runner.epoch, self._first + batch_idx + 1, len(runner.train_loop.dataloader))
            runner.message_hub.update_info(PLACE, place)


def _takes_seeds(dataset: Dataset) -> bool:
    if isinstance(dataset, ConcatDataset):
        return all(_takes_seeds(part) for part in dataset.datasets)
    if isinstance(dataset, RepeatDataset):
        return _takes_seeds(dataset.dataset)
    return isinstance(dataset, RobustCocoDataset)
