import contextlib
import logging
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from helpers import make_sample, random_sample, targets_from
from mmengine.logging import MessageHub, MMLogger
from torch import nn

from mmdet_detr.engine import MatchReportHook
from mmdet_detr.errors import ConfigError
from mmdet_detr.models import BipartiteMatchLoss, HungarianAssigner


@pytest.fixture
def warnings() -> list[str]:
    records: list[str] = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    MMLogger.get_instance('reports').addHandler(handler)
    return records


def runner_of(model: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(model=model, message_hub=MessageHub('hub'))


def test_reports_once_what_happened_since_the_last_report(warnings):
    loss = BipartiteMatchLoss()
    hook, runner = MatchReportHook(), runner_of(nn.ModuleDict({'head': loss}))
    good, bad = random_sample((50, 50), None, 7, 3), random_sample((50, 50), None, 2, 3)
    bad.gt_instances.bboxes[1, 2:] = bad.gt_instances.bboxes[1, :2]  # no area
    for number, sample in enumerate((good, bad)):
        sample.set_metainfo({'img_path': f'{number}.jpg', 'img_id': number})
    logits, boxes = torch.randn(2, 2, 5, 4), torch.rand(2, 2, 5, 4)
    logits[1, 0, 3] = float('nan')
    loss(logits, boxes, targets_from([good, bad]))
    warnings.clear()  # what the loss has said by itself
    hook.after_train_epoch(runner)
    overflow, dropped, crowded = warnings
    assert '1 predictions' in overflow
    assert '1 in 0.jpg (image 0), decoder layer 1' in overflow
    assert '1 of 1.jpg (image 1)' in dropped
    assert 'over 2 looked at so far: median 1, 95th percentile 7' in crowded
    hook.before_val_epoch(runner)
    assert len(warnings) == 3


def test_reports_the_assigner_of_any_head(warnings):
    head = nn.Module()
    head.assigner = HungarianAssigner()
    head.assigner.non_finite.update({(f'{number}.jpg', None): number for number in range(1, 13)})
    MatchReportHook().after_train_epoch(runner_of(head))
    assert len(warnings) == 1
    assert '78 predictions' in warnings[0]
    assert '12 in 12.jpg; ' in warnings[0]
    assert '3 in 3.jpg; and 2 more.' in warnings[0]


class Data:
    """As much of a data set as its annotations."""

    metainfo: ClassVar[dict] = {'classes': ('circle', 'square')}

    def __init__(self, *infos: dict) -> None:
        self.infos = infos

    def __len__(self) -> int:
        return len(self.infos)

    def get_data_info(self, index: int) -> dict:
        return self.infos[index]


CROWD, OBJECT = {'ignore_flag': 1}, {'ignore_flag': 0}


@pytest.mark.parametrize(
    ('infos', 'learns'),
    [
        ([], False),
        ([{'instances': []}, {'instances': [CROWD]}], False),
        ([{'instances': []}, {'instances': [CROWD, OBJECT]}], True),
        ([{}], True),  # a data set of another kind
    ],
)
def test_a_training_without_any_object_ends_before_it_begins(infos, learns):
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=Data(*infos))))
    message = f'not one of its {len(infos)} images has an object to learn of the classes circle, square: look at its'
    with contextlib.nullcontext() if learns else pytest.raises(ConfigError, match=message):
        MatchReportHook().before_train(runner)


def test_a_wrapper_that_hides_its_annotations_is_believed():
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=object())))
    MatchReportHook().before_train(runner)


def test_nothing_to_report(warnings):
    loss = BipartiteMatchLoss()
    loss(torch.randn(1, 1, 5, 4), torch.rand(1, 1, 5, 4), targets_from([make_sample((5, 5))]))
    MatchReportHook().after_train_epoch(runner_of(loss))
    assert not warnings


def test_collapse_is_said_after_so_many_iterations_in_a_row(warnings):
    hook, runner = MatchReportHook(min_spread=0.01, collapse_iters=3), runner_of(nn.Module())
    for spread in (0.001, 0.001, 0.02, 0.001, 0.001):
        step(hook, runner, spread)
    assert not warnings
    step(hook, runner, 0.001)
    step(hook, runner, 0.001)
    assert len(warnings) == 1
    assert 'For 3 iterations' in warnings[0]
    assert 'docs/troubleshooting.md' in warnings[0]


def step(hook: MatchReportHook, runner: SimpleNamespace, spread: float) -> None:
    runner.message_hub.update_scalar('train/query_spread', spread)
    hook.after_train_iter(runner, 0, outputs={'query_spread': torch.tensor(spread)})


@pytest.mark.parametrize('outputs', [None, {}, {'loss': torch.ones(())}])
def test_iterations_without_a_spread_do_not_count(warnings, outputs):
    """Other models log none, and a skipped step leaves none; the one in the message hub is an old one then."""
    hook, runner = MatchReportHook(collapse_iters=2), runner_of(nn.Module())
    step(hook, runner, 0.0)
    hook.after_train_iter(runner, 0, outputs=outputs)
    assert not warnings
    step(hook, runner, 0.0)
    assert len(warnings) == 1
