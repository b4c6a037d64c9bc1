"""Workers of data loaders: their random numbers, and what they share with their parent."""

import gc
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmdet_detr.engine import leave_signals_to_parent
from mmdet_detr.engine.workers import GRACE


def test_workers_of_two_ranks_draw_different_numbers(monkeypatch):
    """Where a data set does not take the seed of the draw."""

    class Drawn(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> float:
            return np.random.rand()

    numbers = []
    for rank in ('0', '1', '0'):
        monkeypatch.setenv('RANK', rank)
        torch.manual_seed(3)  # the same on all ranks
        numbers.append(torch.cat(list(DataLoader(Drawn(), num_workers=2, worker_init_fn=leave_signals_to_parent))))
    assert len(set(numbers[0].tolist() + numbers[1].tolist())) == 4
    assert torch.equal(numbers[0], numbers[2])


def test_workers_leave_the_memory_of_their_parent_alone():
    """A full garbage collection writes to every object that it visits, and a forked page that is written is copied."""

    class Frozen(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> int:
            return gc.get_freeze_count()

    gc.unfreeze()
    try:
        (count,) = DataLoader(Frozen(), num_workers=1, worker_init_fn=leave_signals_to_parent)
    finally:
        gc.freeze()  # The session's fixture does so too.
    assert count > 10_000


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='workers cannot tell who sends a signal here')
def test_worker_ends_at_once_in_the_background_of_a_shell():
    """The shell starts such a job with SIGINT ignored, and workers inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        batches = iter(DataLoader(range(8), num_workers=1, worker_init_fn=leave_signals_to_parent))
        next(batches)
        (worker,) = batches._workers
        worker.terminate()
        worker.join(GRACE - 1)
        assert worker.exitcode == 0
    finally:
        signal.signal(signal.SIGINT, before)
