"""Runs that are interrupted and go on: to the bit as if nothing had happened."""

import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest
import torch
from distributed_worker import seed_on_rank
from helpers import shapes_config
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint
from mmengine.runner._flexible_runner import FlexibleRunner
from processes import call_on_ranks
from runs import BY_EPOCH, BY_ITERATION, SEEDED, At, InValidation, equal, interrupted, seeded, send, train

from mmdet_detr.errors import CheckpointError, ConfigError


def test_after_the_last_iteration_of_an_epoch(shapes, whole, tmp_path):
    """Its checkpoint says that the epoch is not over, since what comes at its end is still to be done."""
    expected, options = whole(BY_EPOCH).weights, {**BY_EPOCH, **SEEDED}
    interrupted(shapes, tmp_path / 'parts', options, At(3, send(signal.SIGTERM)))
    assert equal(expected, train(shapes, tmp_path / 'parts', options, resume=True))
    assert (tmp_path / 'parts' / 'epoch_1.pth').exists()
    options |= {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 3}
    interrupted(shapes, tmp_path / 'others', options, At(5, send(signal.SIGTERM)))
    (tmp_path / 'others' / 'interrupted_iter_5.pth').unlink()
    assert equal(expected, train(shapes, tmp_path / 'others', options, resume=True))


FINITE = {**BY_ITERATION, 'train_dataloader.sampler': seeded('DefaultSampler')}
WAYS = pytest.mark.parametrize(
    'options', [BY_ITERATION, BY_EPOCH, FINITE], ids=['iterations', 'epochs', 'iterations of epochs']
)


@WAYS
@pytest.mark.parametrize('workers', [0, 2])
def test_ends_with_the_same_weights(shapes, whole, tmp_path, options, workers):
    """Also as a run without workers."""
    loader = {'train_dataloader.num_workers': workers, **SEEDED}
    interrupted(shapes, tmp_path / 'parts', options, At(2, send(signal.SIGTERM)), **loader)
    assert find_latest_checkpoint(tmp_path / 'parts').endswith('interrupted_iter_2.pth')
    interrupted(shapes, tmp_path / 'parts', options, At(8, send(signal.SIGTERM)), resume=True, **loader)
    assert not (tmp_path / 'parts' / 'interrupted_iter_2.pth').exists()
    assert equal(whole(options).weights, train(shapes, tmp_path / 'parts', options, resume=True, **loader))


@WAYS
def test_another_seed_ends_with_other_weights(whole, options):
    assert not equal(whole(options).weights, whole(options, randomness={'seed': 6}).weights)


def test_without_a_seed_in_the_config(shapes, tmp_path):
    """The seed that was drawn at the start is that of the rest."""
    seeds = []

    class Drawn(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seeds.append((runner.iter, [sample.img_id for sample in data_batch['data_samples']]))

    interrupted(shapes, tmp_path / 'parts', BY_ITERATION, At(5, send(signal.SIGTERM)), Drawn())
    train(shapes, tmp_path / 'parts', BY_ITERATION, Drawn(), resume=True)
    assert [iteration for iteration, _ in seeds] == list(range(9))
    for epoch in range(3):  # 24 images, three batches
        images = [image for _, batch in seeds[3 * epoch : 3 * epoch + 3] for image in batch]
        assert len(set(images)) == 24


def test_ranks_with_seeds_of_their_own_share_the_data(tmp_path):
    """As with ``randomness=dict(diff_rank_seed=True)``."""
    call_on_ranks(seed_on_rank, tmp_path)
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    assert [rank['seed'] for rank in ranks] == [5, 5]
    assert sorted(ranks[0]['order'] + ranks[1]['order']) == list(range(8))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.bbox_head.num_classes': 2}, r'class_embed.weight is \(4, 64\) in the checkpoint and \(3, 64\) in the'),
        ({'model.neck.num_queries': 20}, r'query_embed.weight is \(10, 64\) in the checkpoint and \(20, 64\) in the'),
        ({'model.bbox_head.training_queries': []}, r'the model lacks bbox_head\.training_queries\.0'),
        (
            {
                'train_dataloader.dataset.type': 'CocoDataset',  # ours takes the names in the order of the file only
                'train_dataloader.dataset.metainfo.classes': ('square', 'circle', 'triangle'),
                'custom_hooks': [{'type': 'mmdet_detr.ClassNamesHook'}],
            },
            'its classes are circle, square, triangle, those of the data square, circle, triangle',
        ),
    ],
)
def test_another_model_is_refused_with_its_optimizer(shapes, whole, tmp_path, options, message):
    checkpoint = find_latest_checkpoint(whole(BY_ITERATION).work_dir)
    with pytest.raises(CheckpointError, match=rf'--resume: .*\.pth does not fit the optimizer: .*{message}'):
        train(shapes, tmp_path / 'other', BY_ITERATION, resume=True, load_from=checkpoint, **options)


def test_weights_alone_are_no_training_to_resume(shapes, whole, tmp_path):
    weights = torch.load(find_latest_checkpoint(whole(BY_ITERATION).work_dir), weights_only=False)['state_dict']
    torch.save({'state_dict': weights}, tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match=r'weights.pth holds no state of a training. To start .* in load_from'):
        train(shapes, tmp_path / 'other', BY_ITERATION, resume=True, load_from=str(tmp_path / 'weights.pth'))


def test_flexible_runner_within_an_epoch(shapes, tmp_path):
    """It would note the next epoch in a checkpoint from the middle of one."""
    config = shapes_config(shapes, tmp_path / 'run', **{**BY_EPOCH, 'strategy': {'type': 'SingleDeviceStrategy'}})
    runner = FlexibleRunner.from_cfg(config)
    runner.register_hook(At(2, send(signal.SIGTERM)))
    with pytest.raises(SystemExit):
        runner.train()
    meta = torch.load(tmp_path / 'run' / 'interrupted_iter_2.pth', weights_only=False)['meta']
    assert (meta['epoch'], meta['iter']) == (0, 2)


class ToTheGroup:
    """Sends a signal to the workers first and then to the training, as a cluster does to every process of a job."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = int(number)
        self.workers: set[int] = set()

    def __call__(self) -> None:
        self.workers = {child.pid for child in multiprocessing.active_children()}
        subprocess.run(['kill', f'-{self.number}', *map(str, (*self.workers, os.getpid()))], check=True)
        time.sleep(0.5)
        assert self.workers == {child.pid for child in multiprocessing.active_children()}  # all alive


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='workers cannot tell who sends a signal here')
def test_signals_that_reach_the_workers_too(shapes, whole, tmp_path):
    loader = {'train_dataloader.num_workers': 2, **SEEDED}
    warned, ended = ToTheGroup(signal.SIGUSR1), ToTheGroup(signal.SIGTERM)
    interrupted(shapes, tmp_path / 'parts', BY_ITERATION, At(2, warned), At(3, ended), **loader)
    assert len(warned.workers) == len(ended.workers) == 2
    assert equal(whole(BY_ITERATION).weights, train(shapes, tmp_path / 'parts', BY_ITERATION, resume=True, **loader))
    gc.collect()
    for pid in ended.workers:  # they end when their loader goes
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_another_batch_size_starts_the_epoch_anew(shapes, tmp_path):
    """Where it was is no place in it any more: nothing of it may be left out."""
    interrupted(shapes, tmp_path / 'run', BY_EPOCH, At(2, send(signal.SIGTERM)))
    seen = []

    class Drawn(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.extend((runner.epoch, sample.img_id) for sample in data_batch['data_samples'])

    train(shapes, tmp_path / 'run', BY_EPOCH, Drawn(), resume=True, **{'train_dataloader.batch_size': 4})
    assert len(set(seen)) == len(seen) == 3 * 24
    log = '\n'.join(path.read_text() for path in (tmp_path / 'run').rglob('*.log'))
    assert 'epoch 1 had 3 batches and has 6 now: it starts from its beginning' in log


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_signal_in_validation_of_averaged_weights(shapes, whole, tmp_path, number):
    averaged = [*BY_ITERATION['custom_hooks'], {'type': 'EMAHook', 'momentum': 0.1}]
    options = {**BY_ITERATION, 'custom_hooks': averaged, **SEEDED}
    expected = whole(options).weights
    if number == signal.SIGTERM:
        interrupted(shapes, tmp_path / 'parts', options, InValidation(send(number)))
        assert equal(expected, train(shapes, tmp_path / 'parts', options, resume=True))
    else:
        kept = tmp_path / 'kept'

        class Keep(Hook):
            priority = 'LOWEST'

            def before_train_iter(self, runner, batch_idx, data_batch=None):
                if (tmp_path / 'parts' / 'interrupted_iter_4.pth').exists():
                    shutil.copytree(tmp_path / 'parts', kept, dirs_exist_ok=True)

        assert equal(expected, train(shapes, tmp_path / 'parts', options, InValidation(send(number)), Keep()))
        shutil.copy(kept / 'interrupted_iter_4.pth', kept / 'named.pth')
        resumed = {'resume': True, 'load_from': str(kept / 'named.pth')}
        assert equal(expected, train(shapes, tmp_path / 'rest', options, **resumed))


def test_signal_between_the_iterations_of_a_step(shapes, whole, tmp_path):
    options = {**BY_ITERATION, 'optim_wrapper.accumulative_counts': 3, **SEEDED}
    interrupted(shapes, tmp_path / 'parts', options, At(5, send(signal.SIGTERM)))
    assert find_latest_checkpoint(tmp_path / 'parts').endswith('interrupted_iter_6.pth')
    assert equal(whole(options).weights, train(shapes, tmp_path / 'parts', options, resume=True))


def test_in_a_thread(shapes, tmp_path):
    """Signals go to the main thread only; training works all the same."""
    thread = threading.Thread(target=train, args=(shapes, tmp_path / 'run', BY_ITERATION))
    thread.start()
    thread.join()
    assert find_latest_checkpoint(tmp_path / 'run').endswith('iter_9.pth')


def test_signal_in_validation(shapes, whole, tmp_path):
    options = {**BY_ITERATION, **SEEDED}
    interrupted(shapes, tmp_path / 'parts', options, InValidation(send(signal.SIGTERM)))
    assert find_latest_checkpoint(tmp_path / 'parts').endswith('interrupted_iter_4.pth')
    assert equal(whole(BY_ITERATION).weights, train(shapes, tmp_path / 'parts', options, resume=True))


def test_usr1_saves_and_goes_on(shapes, tmp_path):
    seen = []

    class Look(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append((tmp_path / 'run' / 'interrupted_iter_2.pth').exists())

    train(shapes, tmp_path / 'run', BY_ITERATION, At(2, send(signal.SIGUSR1)), Look())
    assert seen == [False, False, True, True, False, False, False, False, False]  # until that of iteration 4
    assert find_latest_checkpoint(tmp_path / 'run').endswith('iter_9.pth')


def test_needs_the_checkpoint_hook(shapes, tmp_path):
    options = {**BY_ITERATION, 'default_hooks.checkpoint.type': 'CheckpointHook'}
    with pytest.raises(ConfigError, match='AtomicCheckpointHook'):
        train(shapes, tmp_path / 'run', options)


def test_says_where_a_resume_is_not_exact(shapes, tmp_path):
    sampler = {'_delete_': True, 'type': 'InfiniteSampler', 'shuffle': True}
    train(shapes, tmp_path / 'run', {**BY_ITERATION, 'train_dataloader.sampler': sampler})
    assert 'the data loader has no SeededSampler' in next((tmp_path / 'run').rglob('*.log')).read_text()
