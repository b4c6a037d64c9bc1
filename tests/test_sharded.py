"""Two processes that split the model's parameters (FSDP), against two that do not."""

import pytest
import torch
from ranks import assert_close, equal

pytestmark = pytest.mark.skipif(
    not hasattr(torch.cpu, 'current_device'), reason='FSDP on CPUs needs a newer PyTorch than 2.1'
)
PLAIN = (
    'train_dataloader.batch_size=4',
    'train_cfg.max_iters=4',
    'optim_wrapper.clip_grad.max_norm=0.1',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=2',
)
ADAM = ('optim_wrapper.optimizer.type=AdamW', 'optim_wrapper.optimizer.lr=1e-3')
SHARDED = (
    *PLAIN,
    'log_processor.all_losses=True',
    'runner_type=FlexibleRunner',
    'strategy.type=mmdet_detr.FSDPStrategy',
)


def test_takes_the_steps_of_plain_ranks(ranks):
    plain, _, _ = ranks.train(2, *PLAIN)
    sharded, output, _ = ranks.train(2, *SHARDED)
    before, _, _ = ranks.train(1, 'train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0')
    assert_close(plain, sharded, before)
    assert 'grad_norm' in output


def test_takes_the_steps_of_plain_ranks_with_parts_for_training_only(ranks):
    plain, _, _ = ranks.train(2, *PLAIN, config=ranks.config_with_parts)
    sharded, output, _ = ranks.train(2, *SHARDED, config=ranks.config_with_parts)
    options = ('train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0')
    before, _, _ = ranks.train(1, *options, config=ranks.config_with_parts)
    assert any('training_queries' in name for name in sharded)
    assert_close(plain, sharded, before)
    assert 'dense.loss_cls' in output


@pytest.mark.parametrize(('first', 'second'), [(SHARDED, SHARDED), (PLAIN, SHARDED), (SHARDED, PLAIN)])
def test_resumes_with_the_optimizers_states(ranks, first, second):
    """A run with FSDP and one without, from its own checkpoint and from the other's."""
    whole, _, work_dir = ranks.train(2, *first, *ADAM)
    middle = work_dir / 'iter_2.pth'
    resumed, _, _ = ranks.train(2, *second, *ADAM, 'resume=True', f'load_from={middle}')
    before = torch.load(middle, weights_only=False)['state_dict']
    if first is second:
        assert equal(resumed, whole)
    for name, value in whole.items():
        if value.is_floating_point():
            step = (value - before[name]).norm()
            assert (resumed[name] - value).norm() <= 1e-2 * step + 1e-6 * value.norm(), name


def test_starts_from_weights_of_a_plain_run(ranks):
    plain, _, work_dir = ranks.train(2, *PLAIN)
    start = f'load_from={work_dir / "iter_4.pth"}'
    loaded, _, _ = ranks.train(2, *SHARDED, start, 'optim_wrapper.optimizer.lr=0.0')
    assert equal(loaded, plain)
