"""A sampler that gives each sample the seed of its augmentation."""

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

from mmengine.dist import get_rank, sync_random_seed
from torch.utils.data import Sampler

from ..registry import DATA_SAMPLERS


class SeededIndex(int):
    """The index of a sample with the seed of its augmentation. ConcatDataset and RepeatDataset keep the seed."""

    seed: tuple[int, ...]

    @classmethod
    def of(cls, index: int, seed: tuple[int, ...]) -> 'SeededIndex':
        """Join an index and a seed; :func:`~mmdet_detr.datasets.randomness.seed_transforms` takes the seed."""
        seeded = cls(index)
        seeded.seed = seed
        return seeded

    def __sub__(self, other: int) -> 'SeededIndex':  # ConcatDataset calls it
        return self.of(int(self) - other, self.seed)

    def __mod__(self, other: int) -> 'SeededIndex':  # RepeatDataset calls it
        return self.of(int(self) % other, self.seed)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Numbers the draws of another sampler, so that each draw has a seed of its own in any process.

    :class:`~mmdet_detr.datasets.RobustCocoDataset` augments by that seed. A run that goes on from a checkpoint then
    reads the same samples as an uninterrupted run.

    Args:
        dataset: the data set to draw from.
        sampler: config of the sampler, such as ``dict(type='DefaultSampler', shuffle=True)``.
        seed: seed of the order and of the augmentation; None draws one. The runner passes its own.
    """

    def __init__(self, dataset: Sized, sampler: dict[str, Any], seed: int | None = None) -> None:
        self.dataset = dataset
        self._config = sampler
        self._first = 0
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        if hasattr(self._sampler(), 'skip'):  # an endless sampler; mmengine skips all draws since the start of the run
            self.skip = self.start_at

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def start_at(self, draw: int) -> None:
        """Leave out the draws of this rank before a number, in the next iteration over this sampler only."""
        self._first = draw

    def _sampler(self) -> Any:
        sampler = DATA_SAMPLERS.build(self._config, default_args={'dataset': self.dataset, 'seed': self.seed})
        sampler.set_epoch(self.epoch)
        return sampler

    def __len__(self) -> int:
        return len(self._sampler())

    def __iter__(self) -> Iterator[SeededIndex]:
        # A new sampler for each iterator: an infinite one ends for all when one of its iterators is closed.
        first, self._first = self._first, 0
        where = (self.seed, get_rank(), self.epoch)
        for draw, index in enumerate(islice(self._sampler(), first, None), first):
            yield SeededIndex.of(index, (*where, draw))
