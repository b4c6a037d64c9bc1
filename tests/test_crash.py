"""SIGKILL, again and again: nothing that was saved is lost, and the end is that of a run that nobody killed."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from crash_worker import live
from mmengine.runner import find_latest_checkpoint
from processes import call, wait_for

from mmdet_detr.compat.latest_checkpoint import is_complete

KILLS = int(os.environ.get('MMDET_DETR_KILLS', '5'))
OUT = os.environ.get('MMDET_DETR_CRASH_OUT')  # JSON of what happened


def pointer(work_dir: Path) -> str:
    path = work_dir / 'last_checkpoint'
    return path.read_text() if path.exists() else ''


def saved(work_dir: Path) -> int:
    """The iteration of the checkpoint that a resume would take, which has to be complete."""
    return torch.load(pointer(work_dir), weights_only=False)['meta']['iter'] if pointer(work_dir) else 0


@pytest.mark.parametrize('kills', [pytest.param(KILLS, id='few'), pytest.param(20, id='many', marks=pytest.mark.slow)])
def test_killed_again_and_again(shapes, tmp_path, kills):
    killed, iterations_of_all = tmp_path / 'killed', 25 * kills
    moments = random.Random(0)
    iterations = [0]
    halves = 0
    for number in range(kills):
        before = pointer(killed)
        life = call(live, shapes, killed, iterations_of_all)
        if number % 2:  # while it writes a checkpoint
            wait_for(lambda: list(killed.glob('*.part')), life, interval=0.001)
        else:  # at any moment after its first checkpoint
            wait_for(lambda before=before: pointer(killed) != before, life, interval=0.001)
            time.sleep(moments.uniform(0, 0.2))
        os.kill(life.pid, signal.SIGKILL)
        assert life.wait() == -signal.SIGKILL
        halves += bool(list(killed.glob('*.part')))
        iterations.append(saved(killed))
        assert iterations[-1] >= iterations[-2]  # nothing that was saved is lost
    assert halves  # some died with a file half-written
    for work_dir in (killed, tmp_path / 'whole'):
        life = call(live, shapes, work_dir, iterations_of_all)
        output, _ = life.communicate()
        assert life.returncode == 0, output
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
    assert set(killed.glob('*.pth*')) - best == {killed / f'iter_{iterations_of_all}.pth'}
    if OUT:
        Path(OUT).write_text(json.dumps({'kills': kills, 'half-written': halves, 'killed at': iterations[1:]}) + '\n')
