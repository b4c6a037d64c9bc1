"""Two processes that split the model's parameters (FSDP), against two that do not."""

import pytest
import torch
from test_ranks import assert_close, shapes, train  # noqa: F401  (a fixture)

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
SHARDED = (*PLAIN, 'runner_type=FlexibleRunner', 'strategy.type=mmdet_detr.FSDPStrategy')


@pytest.fixture(scope='module')
def plain(shapes):  # noqa: F811
    return train(shapes, 'plain', 2, *PLAIN)[0]


def test_takes_the_steps_of_plain_ranks(shapes, plain):  # noqa: F811
    sharded, output = train(shapes, 'sharded', 2, *SHARDED)
    before, _ = train(shapes, 'before', 1, 'optim_wrapper.optimizer.lr=0.0', 'train_cfg.max_iters=1')
    assert_close(plain, sharded, before)
    assert 'grad_norm' in output


@pytest.mark.parametrize(('first', 'second'), [(SHARDED, SHARDED), (PLAIN, SHARDED), (SHARDED, PLAIN)])
def test_resumes_with_the_optimizers_states(shapes, first, second, request):  # noqa: F811
    """A run with FSDP and one without, from its own checkpoint and from the other's."""
    name = request.node.callspec.id
    whole, _ = train(shapes, f'whole_{name}', 2, *first, *ADAM)
    middle = f'load_from={shapes / f"whole_{name}" / "iter_2.pth"}'
    resumed, _ = train(shapes, f'resumed_{name}', 2, *second, *ADAM, 'resume=True', middle)
    before = torch.load(shapes / f'whole_{name}' / 'iter_2.pth', weights_only=False)['state_dict']
    if first is second:
        assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    for name, value in whole.items():
        if value.is_floating_point():
            step = (value - before[name]).norm()
            assert (resumed[name] - value).norm() <= 1e-2 * step + 1e-6 * value.norm(), name


def test_starts_from_weights_of_a_plain_run(shapes, plain):  # noqa: F811
    start = f'load_from={shapes / "plain" / "iter_4.pth"}'
    loaded, _ = train(shapes, 'loaded', 2, *SHARDED, start, 'optim_wrapper.optimizer.lr=0.0')
    assert all(torch.equal(value, plain[name]) for name, value in loaded.items())
