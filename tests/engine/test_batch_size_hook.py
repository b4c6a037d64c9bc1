from types import SimpleNamespace

import pytest

from mmdet_detr.engine import BatchSizeHook


def warnings_of(monkeypatch, auto_scale_lr, batch_size=2, world_size=1, accumulated=1, **loader) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr('mmdet_detr.engine.batch_size_hook.warn', said.append)
    runner = SimpleNamespace(
        cfg={'auto_scale_lr': auto_scale_lr},
        train_dataloader=SimpleNamespace(batch_size=batch_size, **loader),
        world_size=world_size,
        optim_wrapper=SimpleNamespace(_accumulative_counts=accumulated),
    )
    BatchSizeHook().before_train(runner)
    return said


@pytest.mark.parametrize(
    ('batch_size', 'world_size', 'accumulated', 'warned'),
    [(2, 8, 1, False), (2, 1, 1, True), (8, 1, 1, True), (9, 1, 1, False), (2, 1, 8, False), (4, 8, 1, True)],
)
def test_far_from_the_base(batch_size, world_size, accumulated, warned, monkeypatch):
    scaling = {'enable': False, 'base_batch_size': 16}
    said = warnings_of(monkeypatch, scaling, batch_size, world_size, accumulated)
    assert bool(said) == warned
    if said:
        assert said[0].startswith(f'A step sees {batch_size * world_size * accumulated} images')
        assert 'chosen for 16 images: add --auto-scale-lr' in said[0]


def test_what_scaling_does_not_count(monkeypatch):
    said = warnings_of(monkeypatch, {'enable': False, 'base_batch_size': 16}, accumulated=2)
    assert 'A step sees 4 images (2 x 1 processes x 2 accumulated)' in said[0]
    assert 'multiply it by 0.25 (--auto-scale-lr does not' in said[0]


@pytest.mark.parametrize('scaling', [{'enable': True, 'base_batch_size': 16}, {'enable': False}, None])
def test_silent_where_scaling_is_on_or_nothing_is_known(scaling, monkeypatch):
    assert not warnings_of(monkeypatch, scaling)


def test_batch_sampler(monkeypatch):
    scaling = {'enable': False, 'base_batch_size': 16}
    sampler = SimpleNamespace(batch_size=3)
    assert 'sees 3 images' in warnings_of(monkeypatch, scaling, None, batch_sampler=sampler)[0]
    assert not warnings_of(monkeypatch, scaling, None, batch_sampler=None)
