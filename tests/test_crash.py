"""SIGKILL, again and again: nothing that was saved is lost, and the end is that of a run that nobody killed."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crash_worker import KILLS, live
from mmengine.runner import find_latest_checkpoint

from mmdet_detr.compat.latest_checkpoint import is_complete
from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

OUT = os.environ.get('MMDET_DETR_CRASH_OUT')  # JSON of what happened
DEADLINE = 120  # seconds that a life may take to get where it is to be killed


@pytest.fixture
def context():
    """Processes that are forked from one that has imported everything: a life starts in no time."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['crash_worker'])
    return context


def wait_for(condition: Callable[[], bool], life: multiprocessing.Process) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert life.is_alive(), 'ended before it could be killed'
        assert time.monotonic() < end, 'did not get there'
        time.sleep(0.001)


def pointer(work_dir: Path) -> str:
    path = work_dir / 'last_checkpoint'
    return path.read_text() if path.exists() else ''


def saved(work_dir: Path) -> int:
    """The iteration of the checkpoint that a resume would take, which has to be complete."""
    return torch.load(pointer(work_dir), weights_only=False)['meta']['iter'] if pointer(work_dir) else 0


def test_killed_again_and_again(context, tmp_path):
    shapes, killed = tmp_path / 'shapes', tmp_path / 'killed'
    for split, count in (('train', 24), ('val', 4)):
        list(write_shapes(shapes, split, count, ShapesOptions()))
    moments = random.Random(0)
    iterations = [0]
    halves = 0
    for number in range(KILLS):
        before = pointer(killed)
        life = context.Process(target=live, args=(shapes, killed))
        life.start()
        if number % 2:  # while it writes a checkpoint
            wait_for(lambda: bool(list(killed.glob('*.part'))), life)
        else:  # at any moment after its first checkpoint
            wait_for(lambda before=before: pointer(killed) != before, life)
            time.sleep(moments.uniform(0, 0.2))
        os.kill(life.pid, signal.SIGKILL)
        life.join()
        assert life.exitcode == -signal.SIGKILL
        halves += bool(list(killed.glob('*.part')))
        iterations.append(saved(killed))
        assert iterations[-1] >= iterations[-2]  # nothing that was saved is lost
    assert halves  # some died with a file half-written
    for work_dir in (killed, tmp_path / 'whole'):
        life = context.Process(target=live, args=(shapes, work_dir))
        life.start()
        life.join()
        assert life.exitcode == 0
    one, other = (
        torch.load(find_latest_checkpoint(folder), weights_only=False) for folder in (killed, tmp_path / 'whole')
    )
    assert one['meta']['iter'] == other['meta']['iter'] > iterations[-1]
    for weights in ('state_dict', 'ema_state_dict'):
        assert one[weights].keys() == other[weights].keys()
        for name, value in one[weights].items():
            assert torch.equal(value, other[weights][name]), name
    best = set(killed.glob('best_*.pth*'))
    assert best
    assert all(map(is_complete, best))
    assert set(killed.glob('*.pth*')) - best == {killed / f'iter_{25 * KILLS}.pth'}
    if OUT:
        Path(OUT).write_text(json.dumps({'kills': KILLS, 'half-written': halves, 'killed at': iterations[1:]}) + '\n')
