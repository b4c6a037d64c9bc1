"""Two processes that split the model's parameters (FSDP), against two that do not."""

import pytest
import torch
from test_ranks import assert_close, shapes, train  # noqa: F401  (a fixture)

PLAIN = (
    'train_dataloader.batch_size=4',
    'train_cfg.max_iters=4',
    'optim_wrapper.clip_grad.max_norm=0.1',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=2',
)
SHARDED = (*PLAIN, 'runner_type=FlexibleRunner', 'strategy.type=mmdet_detr.FSDPStrategy')


@pytest.fixture(scope='module')
def plain(shapes):  # noqa: F811
    return train(shapes, 'plain', 2, *PLAIN)[0]


def test_takes_the_steps_of_plain_ranks(shapes, plain):  # noqa: F811
    sharded, output = train(shapes, 'sharded', 2, *SHARDED)
    before, _ = train(shapes, 'before', 1, 'optim_wrapper.optimizer.lr=0.0', 'train_cfg.max_iters=1')
    assert_close(plain, sharded, before)
    assert 'grad_norm' in output
    resumed, _ = train(shapes, 'resumed', 2, *SHARDED, 'resume=True', f'load_from={shapes / "sharded" / "iter_2.pth"}')
    assert all(torch.equal(value, sharded[name]) for name, value in resumed.items())


def test_starts_from_weights_of_a_plain_run(shapes, plain):  # noqa: F811
    start = f'load_from={shapes / "plain" / "iter_4.pth"}'
    loaded, _ = train(shapes, 'loaded', 2, *SHARDED, start, 'optim_wrapper.optimizer.lr=0.0')
    assert all(torch.equal(value, plain[name]) for name, value in loaded.items())
