"""Makes an interrupted and resumed run end with the same weights as an uninterrupted one."""

from typing import Any

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

PLACE = 'place_in_epoch'  # key in checkpoints: (epoch, finished batches of the epoch, all batches of the epoch)


@HOOKS.register_module()
class ReproducibleHook(Hook):
    """Gives a resumed run the random numbers of an uninterrupted one, and continues an epoch where it was interrupted.

    The random numbers of an iteration (dropout) are seeded by the run's seed, the rank and the iteration. The random
    numbers of a sample (augmentation) are seeded by its position in the run, if the data loader has a
    :class:`~mmdet_detr.datasets.SeededSampler`. The seed is stored in checkpoints, so it stays the same after
    ``--resume``, even if the config names no seed. (mmengine itself restores only the order of images, in runs by
    iterations only with a seed in the config.) If the number of batches has changed (by batch size, ranks or data),
    the interrupted epoch starts from its beginning.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        samplers = (loop.dataloader.sampler, getattr(loop.dataloader.batch_sampler, 'sampler', None))
        self._sampler = next((sampler for sampler in samplers if isinstance(sampler, SeededSampler)), None)
        if self._sampler is None:
            warn(
                'the data loader has no SeededSampler: a resumed run will see other images and augmentation. '
                'Wrap the sampler of train_dataloader in a mmdet_detr.SeededSampler.'
            )
            return
        if not _takes_seeds(loop.dataloader.dataset):
            kind = type(loop.dataloader.dataset).__name__
            warn(
                f'{kind} does not use the seeds of SeededSampler: a resumed run will see other augmentation. '
                'Set train_dataloader.dataset.type to mmdet_detr.RobustCocoDataset.'
            )
        seed = torch.tensor(runner.seed)
        broadcast(seed)  # ranks may have different seeds, but must agree on the order of the images
        if self._sampler.seed != seed:  # the sampler was built before the checkpoint with the seed was loaded
            self._sampler.seed = int(seed)
            if hasattr(loop, 'dataloader_iterator'):  # this iterator may have read indices by the old seed
                loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)

    def before_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or self._sampler is None:
            return  # a loop by iterations skips the finished batches itself
        batches, length = loop.dataloader.batch_sampler, len(loop.dataloader)
        epoch, done, before = runner.message_hub.runtime_info.get(PLACE, (0, 0, length))
        self._first = 0
        if epoch != runner.epoch or not 0 < done <= before:
            return
        if type(batches) is not BatchSampler:
            kind = type(batches).__name__
            warn(f'{kind} cannot continue within an epoch: epoch {epoch + 1} starts from its beginning')
        elif before != length:
            warn(f'epoch {epoch + 1} had {before} batches and has {length} now: it starts from its beginning')
        else:
            runner.logger.info(f'epoch {epoch + 1} continues after its first {done} batches')
            self._sampler.start_at(done * batches.batch_size)
            self._first = done

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_all((runner.seed, get_rank(), runner.iter))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and self._sampler is not None:
            place = (runner.epoch, self._first + batch_idx + 1, len(runner.train_loop.dataloader))
            runner.message_hub.update_info(PLACE, place)


def _takes_seeds(dataset: Dataset) -> bool:
    if isinstance(dataset, ConcatDataset):
        return all(_takes_seeds(part) for part in dataset.datasets)
    if isinstance(dataset, RepeatDataset):
        return _takes_seeds(dataset.dataset)
    return isinstance(dataset, RobustCocoDataset)
