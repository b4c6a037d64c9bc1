"""Two processes on the CPU, through the launcher, against one with both their batches."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes
from mmdet_detr.engine.preemption_hook import EXIT_CODE

CONFIG = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py'
TRAIN = ROOT / 'tools' / 'train.py'
OPTIONS = (
    'train_cfg.val_interval=1000',
    'default_hooks.logger.interval=1',
    'optim_wrapper.optimizer.type=SGD',
    'optim_wrapper.optimizer.lr=0.01',
    'optim_wrapper.clip_grad.max_norm=1e9',
    'model.backbone.norm_eval=True',  # the statistics of a batch are those of a rank
    'model.backbone.norm_cfg.requires_grad=False',
    'model.bbox_head.loss.type=mmdet_detr.BipartiteMatchLoss',
    'model.bbox_head.loss.sync_cls_avg_factor=True',
    'train_dataloader.dataset.pipeline.2.prob=0.0',
    'train_dataloader.sampler.sampler.shuffle=False',
    'randomness.seed=3',
)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """Sixteen images; those that the second of two ranks reads have no boxes in the first batch."""
    root = tmp_path_factory.mktemp('ranks')
    for split, count in (('train', 16), ('val', 4)):
        list(write_shapes(root / 'data' / 'shapes', split, count, ShapesOptions()))
    path = root / 'data' / 'shapes' / 'annotations' / 'instances_train.json'
    document = json.loads(path.read_text())
    without = {image['id'] for i, image in enumerate(document['images']) if i % 2 and i < 8}
    document['annotations'] = [a for a in document['annotations'] if a['image_id'] not in without]
    path.write_text(json.dumps(document))
    return root


def start(root, work_dir, ranks: int, *options: str, launch: tuple[str, ...] = ('--standalone',)) -> subprocess.Popen:
    launcher = [] if ranks == 1 else ['-m', 'torch.distributed.run', *launch]
    if ranks > 1 and launch == ('--standalone',):
        launcher.append(f'--nproc_per_node={ranks}')
    flags = ['--work-dir', work_dir] + ([] if ranks == 1 else ['--launcher', 'pytorch'])
    command = [sys.executable, *launcher, TRAIN, CONFIG, *flags, '--cfg-options', *OPTIONS, *options]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=root,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(root, name: str, ranks: int, *options: str) -> tuple[dict[str, torch.Tensor], str]:
    process = start(root, name, ranks, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    path = (root / name / 'last_checkpoint').read_text()
    return torch.load(root / path, weights_only=False)['state_dict'], output


def wait_for(root, name: str, pattern: str) -> None:
    """Wait until a run has written a file."""
    end = time.monotonic() + 120
    while time.monotonic() < end and not list((root / name).glob(pattern)):
        time.sleep(0.2)


def children_of(process: subprocess.Popen) -> list[int]:
    listed = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True, check=True).stdout
    return [int(child) for child in listed.split()]


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> None:
    """The same steps were taken, to 1e-5 of their length and the rounding of the weights that they were added to."""
    for name, value in one.items():
        if value.is_floating_point():
            step, weight = (value - start[name]).norm(), value.norm()
            assert (value - other[name]).norm() <= 1e-5 * step + 1e-7 * weight, name


def test_two_ranks_take_the_steps_of_one(shapes):
    two, output = train(shapes, 'two', 2, 'train_dataloader.batch_size=4', 'train_cfg.max_iters=3')
    one, _ = train(shapes, 'one', 1, 'train_dataloader.batch_size=8', 'train_cfg.max_iters=3')
    before, _ = train(
        shapes, 'before', 1, 'train_dataloader.batch_size=8', 'train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0'
    )
    assert not all(torch.equal(value, before[name]) for name, value in one.items())
    assert_close(one, two, before)
    assert 'unused' not in output.lower()


def test_unequal_last_batches(shapes):
    options = (
        'train_cfg.max_iters=2',
        'train_dataloader.sampler.sampler.type=DefaultSampler',
        'train_dataloader.sampler.sampler.round_up=False',
        'train_dataloader.dataset.indices=15',
    )
    two, _ = train(shapes, 'uneven_two', 2, 'train_dataloader.batch_size=4', *options)
    one, _ = train(shapes, 'uneven_one', 1, 'train_dataloader.batch_size=8', *options)
    before, _ = train(shapes, 'uneven_before', 1, 'optim_wrapper.optimizer.lr=0.0', *options)
    assert_close(one, two, before)


def test_one_that_dies_ends_both(shapes):
    process = start(shapes, 'dies', 2, 'train_dataloader.batch_size=2', 'train_cfg.max_iters=100000')
    wait_for(shapes, 'dies', '*/*.log')
    time.sleep(2)
    children = children_of(process)
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert 'SIGKILL' in output or 'Signal 9' in output
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_preempted_together(shapes):
    """SIGTERM to the launcher's children: both leave with a checkpoint from which both go on."""
    process = start(shapes, 'preempted', 2, 'train_dataloader.batch_size=2', 'train_cfg.max_iters=100000')
    wait_for(shapes, 'preempted', '*/vis_data/scalars.json')
    os.kill(children_of(process)[0], signal.SIGTERM)  # one of them is enough
    output, _ = process.communicate(timeout=120)
    assert 'SIGTERM: saved' in output
    assert 'exitcode  : 75' in output
    assert len(list((shapes / 'preempted').glob('interrupted_iter_*.pth'))) == 1


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='workers cannot tell who sends a signal here')
def test_preempted_with_its_workers(shapes):
    """SIGTERM to every process of the job: the training saves, and its workers end with it."""
    process = start(shapes, 'group', 1, 'train_dataloader.num_workers=2', 'train_cfg.max_iters=100000')
    wait_for(shapes, 'group', '*/vis_data/scalars.json')
    workers = children_of(process)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE, output
    assert len(list((shapes / 'group').glob('interrupted_iter_*.pth'))) == 1
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_two_nodes(shapes):
    """Two launchers, each with a process of its own, as on two machines."""
    options = ('train_dataloader.batch_size=4', 'train_cfg.max_iters=3')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    nodes = [
        start(
            shapes,
            f'node_{rank}',
            2,
            *options,
            launch=(
                '--nnodes=2',
                f'--node_rank={rank}',
                '--nproc_per_node=1',
                '--master_addr=127.0.0.1',
                f'--master_port={port}',
            ),
        )
        for rank in range(2)
    ]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    one_machine, _ = train(shapes, 'one_machine', 2, *options)
    two_machines = torch.load(shapes / 'node_0' / 'iter_3.pth', weights_only=False)['state_dict']
    assert all(torch.equal(value, two_machines[name]) for name, value in one_machine.items())


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


def test_slurm(shapes, tmp_path):
    """mim's command for slurm, with a stand-in for srun that starts the tasks of two nodes here."""
    for name, text in (('srun', SRUN.format(python=sys.executable)), ('scontrol', '#!/bin/sh\necho localhost\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    options = ('train_dataloader.batch_size=4', 'train_cfg.max_iters=3')
    command = [Path(sys.executable).with_name('mim'), 'train', 'mmdet_detr', CONFIG, '--launcher', 'slurm']
    command += ['--partition', 'any', '--gpus', '2', '--gpus-per-node', '1', '--cpus-per-task', '1']
    command += ['--srun-args=--signal=USR1@300', '--work-dir', 'slurm']
    finished = subprocess.run(
        [str(part) for part in (*command, '--cfg-options', *OPTIONS, *options)],
        cwd=shapes,
        env={
            **os.environ,
            'PATH': f'{tmp_path}:{os.environ["PATH"]}',
            'OMP_NUM_THREADS': '1',
            'CUDA_VISIBLE_DEVICES': '',
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    launched, _ = train(shapes, 'launched', 2, *options)
    by_slurm = torch.load(shapes / 'slurm' / 'iter_3.pth', weights_only=False)['state_dict']
    assert all(torch.equal(value, by_slurm[name]) for name, value in launched.items())
