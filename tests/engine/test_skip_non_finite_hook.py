from types import SimpleNamespace

import pytest
import torch
from helpers import make_sample
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmdet_detr.engine import SkipNonFiniteHook


class Scale(BaseModel):
    """Its loss is the mean of weight * input: an input of NaN gives a NaN gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, inputs, data_samples=None, mode='loss'):
        return {'loss': (torch.stack(inputs) * self.weight).mean()}


def batches(values: list[float]) -> DataLoader:
    samples = [make_sample((4, 4)) for _ in values]
    for number, sample in enumerate(samples):
        sample.set_metainfo({'img_path': f'{number}.jpg', 'img_id': number})
    data = [{'inputs': torch.full((2,), x), 'data_samples': s} for x, s in zip(values, samples, strict=True)]
    return DataLoader(data, collate_fn=lambda items: {key: [item[key] for item in items] for key in items[0]})


def train(values: list[float], hook: SkipNonFiniteHook, tmp_path, **optim_wrapper) -> Runner:
    runner = Runner(
        Scale(),
        work_dir=str(tmp_path),
        train_dataloader=batches(values),
        train_cfg={'by_epoch': False, 'max_iters': len(values)},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 1.0, 'momentum': 0.9}, **optim_wrapper},
        default_hooks={'checkpoint': None},
        custom_hooks=[hook],
        experiment_name=tmp_path.name,
        default_scope='mmengine',
    )
    runner.train()
    return runner


@pytest.mark.parametrize('clip_grad', [None, {'max_norm': 10.0}])
def test_a_bad_step_changes_nothing(tmp_path, clip_grad):
    nan = float('nan')
    hook = SkipNonFiniteHook()
    runner = train([1.0, nan, 1.0, float('inf')], hook, tmp_path / 'bad', clip_grad=clip_grad)
    expected = train([1.0, 1.0], SkipNonFiniteHook(), tmp_path / 'good', clip_grad=clip_grad)
    assert hook.skipped == 2
    assert torch.equal(runner.model.weight, expected.model.weight)  # momentum was left alone, too
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks  # none left behind


def test_the_first_of_a_row_is_said_and_too_many_end_the_run(tmp_path):
    nan = float('nan')
    with pytest.raises(RuntimeError, match=r'3 steps in a row .* up to iteration 6') as error:
        train([nan, 1.0, 1.0, nan, nan, nan, 1.0], SkipNonFiniteHook(max_consecutive=3), tmp_path)
    assert 'image 3), 4.jpg (image 4), 5.jpg (image 5)' in str(error.value)
    assert '2.jpg' not in str(error.value)
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'Iteration 1 skipped' in log
    assert 'Iteration 4 skipped' in log
    assert 'Iteration 5 skipped' not in log


def test_trains_again_after_the_end(tmp_path):
    hook, nan = SkipNonFiniteHook(max_consecutive=2), float('nan')
    for attempt in range(2):
        with pytest.raises(RuntimeError, match='2 steps in a row'):
            train([1.0, nan, nan], hook, tmp_path / str(attempt))
    assert hook.skipped == 4
    train([1.0, nan, 1.0], hook, tmp_path / 'last')
    assert hook.skipped == 5


def test_half_precision_and_sparse_gradients():
    """Their sum of squares would overflow; an embedding's gradient has few rows."""
    half = nn.Parameter(torch.zeros(10_000, dtype=torch.float16))
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD([half, embedding.weight], lr=1e-3)
    hook = SkipNonFiniteHook()
    hook.before_train(SimpleNamespace(optim_wrapper=OptimWrapper(optimizer)))
    half.grad = torch.full_like(half, 1000.0)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    optimizer.step()
    assert torch.all(half == -1)
    assert not torch.equal(embedding.weight, before)
    embedding.weight.grad.values()[0, 0] = torch.inf
    optimizer.step()
    assert torch.all(half == -1)


def test_accumulated_gradients(tmp_path):
    """A bad batch spoils the step it belongs to, and no other."""
    hook = SkipNonFiniteHook(max_consecutive=2)
    runner = train([1.0, float('nan'), 1.0, 3.0], hook, tmp_path, accumulative_counts=2)
    assert hook.skipped == 1
    assert runner.model.weight.tolist() == [1.0 - (0.5 + 1.5) / 2] * 2


@OPTIM_WRAPPERS.register_module()
class Scaled(OptimWrapper):
    """Passes over bad steps by itself, as a gradient scaler does."""

    def step(self, **kwargs) -> None:
        if all(torch.isfinite(p.grad).all() for group in self.param_groups for p in group['params']):
            super().step(**kwargs)


def test_steps_that_a_scaler_skips_count(tmp_path):
    hook = SkipNonFiniteHook()
    train([1.0, float('nan'), 1.0], hook, tmp_path, type='Scaled')
    assert hook.skipped == 1


def test_several_optimizers():
    """Each of them is watched."""
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    wrappers = {str(i): OptimWrapper(torch.optim.SGD([weight], lr=1.0)) for i, weight in enumerate(weights)}
    runner = SimpleNamespace(optim_wrapper=OptimWrapperDict(**wrappers), model=nn.Module())
    hook = SkipNonFiniteHook()
    hook.before_train(runner)
    assert hook.skipped == 0
    weights[0].grad, weights[1].grad = torch.tensor([torch.nan]), torch.ones(1)
    for wrapper in wrappers.values():
        wrapper.step()
    assert [weight.item() for weight in weights] == [1, 0]
    runner.iter = 0
    hook.after_train_iter(runner, 0, data_batch={'data_samples': {'semi': []}}, outputs={'loss': 0.5})
    assert hook.skipped == 1
    hook.after_train(runner)
    weights[0].grad = torch.tensor([torch.nan])
    wrappers['0'].optimizer.step()
    assert weights[0].isnan()  # no longer watched


def test_refuses_nonsense():
    with pytest.raises(ValueError, match='got 0'):
        SkipNonFiniteHook(max_consecutive=0)
