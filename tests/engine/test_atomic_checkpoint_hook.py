"""Checkpoints are there as a whole or not at all."""

import os
import signal

import pytest
from distributed_worker import save_on_rank
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint
from processes import call_on_ranks
from runs import BY_ITERATION, SEEDED, At, equal, interrupted, send, train

from mmdet_detr.engine import AtomicCheckpointHook, CheckpointWriteError
from mmdet_detr.engine.atomic_checkpoint_hook import _written as written


def test_checkpoints_in_a_relative_folder(shapes, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**BY_ITERATION, **SEEDED, 'default_hooks.checkpoint.out_dir': './checkpoints'}
    interrupted(shapes, tmp_path / 'parts', options, At(6, send(signal.SIGTERM)))
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    named = tmp_path / 'checkpoints' / 'parts' / 'interrupted_iter_6.pth'
    assert find_latest_checkpoint(tmp_path / 'parts') == str(named)
    named.unlink()
    assert find_latest_checkpoint(tmp_path / 'parts') == str(named.with_name('iter_4.pth'))
    monkeypatch.chdir(tmp_path)
    assert equal(whole(BY_ITERATION).weights, train(shapes, tmp_path / 'parts', options, resume=True))


def test_keeps_as_many_as_asked_for(shapes, tmp_path):
    """And deletes the oldest only when the newest is complete."""
    there = []

    class Look(Hook):
        priority = 'LOWEST'

        def before_save_checkpoint(self, runner, checkpoint):
            there.append(sorted(path.name for path in (tmp_path / 'run').glob('*.pth')))

    options = {'default_hooks.checkpoint.interval': 2, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    train(shapes, tmp_path / 'run', BY_ITERATION, Look(), **options)
    assert there == [[], ['iter_2.pth'], ['iter_4.pth'], ['iter_6.pth'], ['iter_8.pth']]
    assert [path.name for path in (tmp_path / 'run').glob('*.pth*')] == ['iter_9.pth']


def test_killed_before_the_outdated_one_is_deleted(shapes, tmp_path, monkeypatch):
    options = {**BY_ITERATION, 'default_hooks.checkpoint.max_keep_ckpts': 1}

    def killed(self):
        if self._outdated:
            raise KeyboardInterrupt

    monkeypatch.setattr(AtomicCheckpointHook, '_delete_outdated', killed)
    with pytest.raises(KeyboardInterrupt):
        train(shapes, tmp_path / 'run', options)
    assert names_in(tmp_path / 'run') == ['iter_4.pth', 'iter_8.pth']
    monkeypatch.undo()
    train(shapes, tmp_path / 'run', options, resume=True)
    assert names_in(tmp_path / 'run') == ['iter_9.pth']


def test_best_checkpoint_is_replaced_not_lost(shapes, tmp_path):
    options = {'default_hooks.checkpoint.save_best': 'coco/bbox_mAP', 'default_hooks.checkpoint.rule': 'greater'}
    train(shapes, tmp_path / 'run', BY_ITERATION, **options)
    assert len(list((tmp_path / 'run').glob('best_*.pth'))) == 1
    assert not list((tmp_path / 'run').glob('*.part'))


def test_another_storage(shapes, tmp_path):
    """What is one too many goes there too, and interrupted ones; this one is a disk that is not known as one."""
    kept = {'default_hooks.checkpoint.interval': 2, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    options = {**BY_ITERATION, **kept, 'default_hooks.checkpoint.file_client_args': {'backend': 'disk'}}
    interrupted(shapes, tmp_path / 'run', options, At(5, send(signal.SIGTERM)))
    assert names_in(tmp_path / 'run') == ['interrupted_iter_5.pth', 'iter_4.pth']
    train(shapes, tmp_path / 'run', options, resume=True)
    assert names_in(tmp_path / 'run') == ['iter_9.pth']
    log = next((tmp_path / 'run').rglob('*.log')).read_text()
    assert f'checkpoints in {tmp_path / "run"} are written by FileClient, not atomically' in log


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth*'))


@pytest.mark.parametrize('readable', [True, False])
def test_says_at_once_what_cannot_be_resumed_from(shapes, tmp_path, readable):
    class Put(Hook):
        def before_train(self, runner):
            runner.message_hub.update_info('extra', 'text' if readable else tmp_path)

    train(shapes, tmp_path / 'run', BY_ITERATION, Put())
    log = next((tmp_path / 'run').rglob('*.log')).read_text()
    warned = (
        f'--resume cannot continue from the checkpoints of this run: {tmp_path / "run" / "iter_4.pth"} is refused: '
    )
    assert log.count(warned) == (not readable)
    assert log.count('--resume cannot') == (not readable)


def test_no_rank_leaves_before_the_checkpoint_is_there(tmp_path):
    call_on_ranks(save_on_rank, tmp_path)
    assert (tmp_path / 'there_0').read_text() == (tmp_path / 'there_1').read_text() == 'interrupted_iter_1.pth'


def test_disk_full(shapes, whole, tmp_path, monkeypatch):
    """A clear error, and the checkpoint before it is whole and the one to resume from."""
    put = LocalBackend.put

    def put_until_full(self, content, path):
        if 'iter_8' not in str(path):
            return put(self, content, path)
        with open(path, 'wb') as file:
            file.write(content[:1000])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(LocalBackend, 'put', put_until_full)
    with pytest.raises(CheckpointWriteError, match=r'cannot write .*iter_8.pth: No space left on device') as raised:
        train(shapes, tmp_path / 'parts', BY_ITERATION, **SEEDED)
    assert '\n' not in str(raised.value)
    assert sorted(path.name for path in (tmp_path / 'parts').glob('*.pth*')) == ['iter_4.pth']
    assert find_latest_checkpoint(tmp_path / 'parts').endswith('iter_4.pth')
    monkeypatch.undo()
    resumed = train(shapes, tmp_path / 'parts', BY_ITERATION, resume=True, **SEEDED)
    assert equal(whole(BY_ITERATION).weights, resumed)


def test_disk_full_where_pytorch_writes_by_itself(tmp_path):
    """As DeepSpeed lets it; PyTorch says this in the place of an OSError."""
    (tmp_path / 'a.pth.part').write_bytes(b'half')
    with pytest.raises(CheckpointWriteError, match=r'cannot write .*a.pth: disk full\?'), written(tmp_path / 'a.pth'):
        raise RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534')
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match='of another kind'), written(tmp_path / 'a.pth'):
        raise RuntimeError('of another kind')


def test_half_written_file_of_a_killed_run(shapes, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'iter_4.pth.part').write_bytes(b'half')
    train(shapes, tmp_path / 'run', BY_ITERATION)
    assert not list((tmp_path / 'run').glob('*.part'))
    log = next((tmp_path / 'run').rglob('*.log')).read_text()
    assert 'iter_4.pth.part was left half-written by an earlier run and is deleted' in log
