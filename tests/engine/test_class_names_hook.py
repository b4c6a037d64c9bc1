from types import SimpleNamespace

from torch import nn

from mmdet_detr.engine import ClassNamesHook


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
