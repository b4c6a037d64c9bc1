from types import SimpleNamespace

import pytest
from torch import nn

from mmdet_detr.engine import ClassNamesHook
from mmdet_detr.errors import ConfigError


def loop(*classes):
    return SimpleNamespace(dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo={'classes': classes})))


def test_names_of_the_loop_that_runs():
    """Loops that do not run are configs still."""
    for train, test, expected in ((loop('a', 'b'), {'type': 'TestLoop'}, ('a', 'b')), ({}, loop('c'), ('c',))):
        runner = SimpleNamespace(model=nn.Linear(1, 1), _train_loop=train, _val_loop=None, _test_loop=test)
        ClassNamesHook().before_run(runner)
        assert runner.model.dataset_meta == {'classes': expected}


def test_without_data():
    runner = SimpleNamespace(model=nn.Linear(1, 1), _train_loop=None, _val_loop=None, _test_loop=None)
    ClassNamesHook().before_run(runner)
    assert not hasattr(runner.model, 'dataset_meta')


@pytest.mark.parametrize(('in_model', 'fits'), [(2, True), (None, True), (1, False), (3, False)])
def test_things_of_the_mask_head_are_those_of_the_data(in_model, fits):
    model = nn.Linear(1, 1)
    model.mask_head = nn.Linear(1, 1)
    model.mask_head.num_things_classes = in_model
    data = loop('cat', 'dog', 'sky')
    data.dataloader.dataset.metainfo |= {'thing_classes': ('cat', 'dog'), 'stuff_classes': ('sky',)}
    runner = SimpleNamespace(model=model, _train_loop=data, _val_loop=None, _test_loop=None)
    if fits:
        ClassNamesHook().before_run(runner)
    else:
        with pytest.raises(ConfigError, match='the first 2 classes of the data are things'):
            ClassNamesHook().before_run(runner)
