"""A sampler whose samples bring the seed of their augmentation along."""

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

from mmengine.dist import get_rank, sync_random_seed
from torch.utils.data import Sampler

from ..registry import DATA_SAMPLERS


class SeededIndex(int):
    """The index of a sample, with the seed of what is drawn for it; ConcatDataset and RepeatDataset hand it on."""

    seed: tuple[int, ...]

    @classmethod
    def of(cls, index: int, seed: tuple[int, ...]) -> 'SeededIndex':
        """The index with a seed: numbers that :func:`~mmdet_detr.datasets.randomness.seed_all` takes."""
        seeded = cls(index)
        seeded.seed = seed
        return seeded

    def __sub__(self, other: int) -> 'SeededIndex':  # ConcatDataset
        return self.of(int(self) - other, self.seed)

    def __mod__(self, other: int) -> 'SeededIndex':  # RepeatDataset
        return self.of(int(self) % other, self.seed)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Numbers the draws of another sampler, so that each has a seed of its own, in whichever process it is read.

    A data set that knows of it (:class:`~mmdet_detr.datasets.RobustCocoDataset`) augments by that seed. A run that
    goes on from a checkpoint thus reads what the uninterrupted one would have read.

    Args:
        dataset: what to draw from.
        sampler: config of the sampler, such as ``dict(type='DefaultSampler', shuffle=True)``.
        seed: of the order and of the augmentation; drawn at random without one. The runner passes its own.
    """

    def __init__(self, dataset: Sized, sampler: dict[str, Any], seed: int | None = None) -> None:
        self.dataset = dataset
        self._config = sampler
        self._first = 0
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        if hasattr(self._sampler(), 'skip'):  # endless: mmengine leaves out what is done since the start of the run
            self.skip = self.start_at

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def start_at(self, draw: int) -> None:
        """Leave out the samples of this rank before a draw of the epoch, once, when this is iterated next."""
        self._first = draw

    def _sampler(self) -> Any:
        sampler = DATA_SAMPLERS.build(self._config, default_args={'dataset': self.dataset, 'seed': self.seed})
        sampler.set_epoch(self.epoch)
        return sampler

    def __len__(self) -> int:
        return len(self._sampler())

    def __iter__(self) -> Iterator[SeededIndex]:
        # a sampler of its own: an infinite one ends for all when one iterator over it is given up
        first, self._first = self._first, 0
        where = (self.seed, get_rank(), self.epoch)
        for draw, index in enumerate(islice(self._sampler(), first, None), first):
            yield SeededIndex.of(index, (*where, draw))
