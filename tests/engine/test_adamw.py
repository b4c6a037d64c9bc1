import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmdet_detr.engine import AdamW


def stepped(optimizer: type[torch.optim.Optimizer], **kwargs: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    steps = optimizer(model.parameters(), lr=0.1, weight_decay=0.2, **kwargs)
    for step in range(10):
        steps.zero_grad()
        model(torch.full((2, 4), float(step)).double()).square().sum().backward()
        steps.step()
    return model, steps


def test_steps_are_those_of_torch():
    ours, optimizer = stepped(AdamW)
    theirs, _ = stepped(torch.optim.AdamW)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-12)
    try:
        torch.optim.AdamW([nn.Parameter(torch.zeros(1))], fused=True)
    except RuntimeError:
        assert not optimizer.defaults.get('fused')
    else:
        assert optimizer.defaults['fused']


@pytest.mark.parametrize('kwargs', [{'fused': False}, {'foreach': True}])
def test_choice_of_the_config_is_obeyed(kwargs):
    _, optimizer = stepped(AdamW, **kwargs)
    assert not optimizer.defaults.get('fused')
    assert optimizer.defaults.get('foreach') == kwargs.get('foreach')


def test_goes_on_from_the_state_of_torch_and_back():
    for first, second in ((torch.optim.AdamW, AdamW), (AdamW, torch.optim.AdamW)):
        model, optimizer = stepped(first)
        again, other = stepped(second)
        again.load_state_dict(model.state_dict())
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for module, steps in ((model, optimizer), (again, other)):
            steps.zero_grad()
            module(torch.ones(1, 4).double()).sum().backward()
            steps.step()
        torch.testing.assert_close(model.weight, again.weight, rtol=1e-12, atol=1e-12)


def test_by_name_with_options_for_parts():
    model = nn.ModuleDict({'backbone': nn.Linear(2, 2), 'neck': nn.Linear(2, 2)})
    wrapper = build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'mmdet_detr.AdamW', 'lr': 1e-4},
            'paramwise_cfg': {'custom_keys': {'backbone': {'lr_mult': 0.1}}},
        },
    )
    assert isinstance(wrapper.optimizer, AdamW)
    assert {round(group['lr'], 8) for group in wrapper.optimizer.param_groups} == {1e-4, 1e-5}
