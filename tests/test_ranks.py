"""Two processes on the CPU, against one with both their batches."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from processes import environment, start_real, wait_for
from ranks import CONFIG, OPTIONS, TRAIN, assert_close, equal

from mmdet_detr.engine.preemption_hook import EXIT_CODE

TWO = ('train_dataloader.batch_size=4', 'train_cfg.max_iters=3')
ENDLESS = ('train_dataloader.batch_size=2', 'train_cfg.max_iters=100000')


def test_two_ranks_take_the_steps_of_one(ranks):
    two, output, _ = ranks.train(2, *TWO)
    one, _, _ = ranks.train(1, 'train_dataloader.batch_size=8', 'train_cfg.max_iters=3')
    before, _, _ = ranks.train(1, 'train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0')
    assert not equal(before, one)
    assert_close(one, two, before)
    assert 'unused' not in output.lower()


def test_two_ranks_take_the_steps_of_one_with_parts_for_training_only(ranks):
    """Noise differs by rank, so denoising gets none. A rank without boxes takes part in everything."""
    config = ranks.config_with_parts
    two, output, _ = ranks.train(2, *TWO, config=config)
    one, _, _ = ranks.train(1, 'train_dataloader.batch_size=8', 'train_cfg.max_iters=3', config=config)
    before, _, _ = ranks.train(1, 'train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0', config=config)
    assert not equal(before, one)
    assert_close(one, two, before)
    assert 'unused' not in output.lower()


def test_two_ranks_take_the_steps_of_one_with_masks(ranks):
    """The second rank has no masks in the first batch."""
    two, output, _ = ranks.train(2, *TWO, config=ranks.config_with_masks)
    one, _, _ = ranks.train(1, 'train_dataloader.batch_size=8', 'train_cfg.max_iters=3', config=ranks.config_with_masks)
    options = ('train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0')
    before, _, _ = ranks.train(1, *options, config=ranks.config_with_masks)
    changed = [
        name for name, value in one.items() if name.startswith('mask_head') and not torch.equal(value, before[name])
    ]
    assert len(changed) > 10
    assert_close(one, two, before, tolerance=1e-4)  # steps of the decoder's biases are tiny
    assert 'unused' not in output.lower()


def test_unequal_last_batches(ranks):
    options = (
        'train_cfg.max_iters=2',
        'train_dataloader.sampler.sampler.type=DefaultSampler',
        'train_dataloader.sampler.sampler.round_up=False',
        'train_dataloader.dataset.indices=15',
    )
    two, _, _ = ranks.train(2, 'train_dataloader.batch_size=4', *options)
    one, _, _ = ranks.train(1, 'train_dataloader.batch_size=8', *options)
    before, _, _ = ranks.train(1, 'train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0')
    assert_close(one, two, before)


def test_one_that_dies_ends_both(ranks):
    """Under PyTorch's own launcher."""
    work_dir = ranks.new_work_dir()
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command = [*launcher, TRAIN, CONFIG, '--work-dir', work_dir, '--launcher', 'pytorch']
    process = subprocess.Popen(
        [str(part) for part in (*command, '--cfg-options', *OPTIONS, *ENDLESS)],
        cwd=ranks.root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: list(work_dir.glob('*/vis_data/scalars.json')), process)
    listed = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True, check=True).stdout
    children = [int(child) for child in listed.split()]
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert 'SIGKILL' in output or 'Signal 9' in output
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_preempted_together(ranks):
    """SIGTERM to one of them: both leave with a checkpoint, and both go on from it."""
    work_dir = ranks.new_work_dir()
    processes = ranks.start(2, *ENDLESS, work_dir=work_dir)
    wait_for(lambda: list(work_dir.glob('*/vis_data/scalars.json')), processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [EXIT_CODE] * 2, outputs
    assert 'SIGTERM: saved' in outputs[0]
    (saved,) = work_dir.glob('interrupted_iter_*.pth')
    iteration = int(saved.stem.split('_')[-1]) + 1
    resumed = (*ENDLESS[:-1], f'train_cfg.max_iters={iteration}', 'resume=True', f'load_from={saved}')
    _, output, end = ranks.train(2, *resumed)
    assert f'resumed epoch: 0, iter: {iteration - 1}' in output
    assert (end / f'iter_{iteration}.pth').exists()


def test_two_nodes(ranks):
    """Each rank is the first one of its machine."""
    one_machine, _, _ = ranks.train(2, *TWO)
    two_machines, _, _ = ranks.train(2, *TWO, nodes=2)
    assert equal(one_machine, two_machines)


SRUN = """#!{python}
import os, subprocess, sys
arguments = sys.argv[1:]
tasks = int(next(a.split('=')[1] for a in arguments if a.startswith('--ntasks=')))
command = arguments[arguments.index({python!r}):]
environments = [
    dict(os.environ, SLURM_PROCID=str(i), SLURM_LOCALID='0', SLURM_NTASKS=str(tasks), SLURM_NODELIST='node[0-1]')
    for i in range(tasks)
]
processes = [subprocess.Popen(command, env=environment) for environment in environments]
sys.exit(max(process.wait() for process in processes))
"""


def test_slurm(ranks, tmp_path, monkeypatch):
    """mim's command for slurm, with a stand-in for srun that starts the tasks of two nodes here."""
    for name, text in (('srun', SRUN.format(python=sys.executable)), ('scontrol', '#!/bin/sh\necho localhost\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    work_dir = ranks.new_work_dir()
    command = ['mim', 'train', 'mmdet_detr', CONFIG, '--launcher', 'slurm', '--partition', 'any', '--gpus', 2]
    command += ['--gpus-per-node', 1, '--cpus-per-task', 1, '--srun-args=--signal=USR1@300']
    finished = start_real(*command, '--work-dir', work_dir, '--cfg-options', *OPTIONS, *TWO, cwd=ranks.root)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    by_slurm = torch.load(work_dir / 'iter_3.pth', weights_only=False)['state_dict']
    assert equal(ranks.train(2, *TWO)[0], by_slurm)
