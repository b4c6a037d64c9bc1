"""Two processes on the CPU, through the launcher, against one with both their batches."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT

from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

CONFIG = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py'
TRAIN = ROOT / 'tools' / 'train.py'
OPTIONS = (
    'train_cfg.val_interval=1000',
    'default_hooks.logger.interval=1',
    'optim_wrapper.optimizer.type=SGD',
    'optim_wrapper.optimizer.lr=0.01',
    'optim_wrapper.clip_grad=None',
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


def start(root, work_dir, ranks: int, *options: str) -> subprocess.Popen:
    launcher = [] if ranks == 1 else ['-m', 'torch.distributed.run', f'--nproc_per_node={ranks}', '--standalone']
    flags = ['--work-dir', work_dir] + ([] if ranks == 1 else ['--launcher', 'pytorch'])
    command = [sys.executable, *launcher, TRAIN, CONFIG, *flags, '--cfg-options', *OPTIONS, *options]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=root,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(root, name: str, ranks: int, *options: str) -> tuple[dict[str, torch.Tensor], str]:
    process = start(root, name, ranks, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    path = (root / name / 'last_checkpoint').read_text()
    return torch.load(root / path, weights_only=False)['state_dict'], output


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
    children: list[str] = []
    end = time.monotonic() + 120
    while time.monotonic() < end and not list((shapes / 'dies').glob('*/*.log')):
        time.sleep(0.2)
    time.sleep(2)
    children = subprocess.run(
        ['pgrep', '-P', str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert 'SIGKILL' in output or 'Signal 9' in output
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)


def test_preempted_together(shapes):
    """SIGTERM to the launcher's children: both leave with a checkpoint from which both go on."""
    process = start(shapes, 'preempted', 2, 'train_dataloader.batch_size=2', 'train_cfg.max_iters=100000')
    end = time.monotonic() + 120
    while time.monotonic() < end and not list((shapes / 'preempted').glob('*/vis_data/scalars.json')):
        time.sleep(0.2)
    children = subprocess.run(
        ['pgrep', '-P', str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGTERM)  # one of them is enough
    output, _ = process.communicate(timeout=120)
    assert 'SIGTERM: saved' in output
    assert 'exitcode  : 75' in output
    assert len(list((shapes / 'preempted').glob('interrupted_iter_*.pth'))) == 1
