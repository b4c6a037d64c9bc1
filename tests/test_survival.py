"""A training run on bad data: it goes on, says what was wrong, and ends where there is nothing to save."""

import json
import re

import numpy as np
import pytest
import torch
from helpers import shapes_config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

NAN = float('nan')


class Poison(Hook):
    """Puts NaN into the first image of some batches."""

    def __init__(self, iterations: set[int]) -> None:
        self.iterations = iterations

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx in self.iterations:
            data_batch['inputs'] = [image.float() for image in data_batch['inputs']]
            data_batch['inputs'][0][:] = NAN


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Sixteen images; the box of one overflows. NaN would not arrive: mmdet's reader passes over it."""
    root = tmp_path_factory.mktemp('bad')
    for split, count in (('train', 16), ('val', 4)):
        list(write_shapes(root, split, count, ShapesOptions()))
    path = root / 'annotations/instances_train.json'
    annotations = json.loads(path.read_text())
    annotations['annotations'][-1]['bbox'][2] = 1e39  # infinite in float32
    path.write_text(json.dumps(annotations))
    return root


def runner_of(data, work_dir, max_iters: int, poisoned: set[int], **options) -> Runner:
    lengths = {'train_cfg.max_iters': max_iters, 'train_cfg.val_interval': max_iters}
    options['train_dataloader.dataset.type'] = 'CocoDataset'  # Our own reader would leave the box out.
    runner = Runner.from_cfg(shapes_config(data, work_dir, **lengths, **options))
    runner.register_hook(Poison(poisoned))
    return runner


def scalars(work_dir) -> list[dict]:
    return [json.loads(line) for line in next(work_dir.rglob('scalars.json')).read_text().splitlines()]


def test_goes_on_and_reports(data, tmp_path):
    runner = runner_of(data, tmp_path, max_iters=4, poisoned={1, 3})
    before = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()
    after = runner.model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())  # the running statistics as well
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
    losses = [entry['loss'] for entry in scalars(tmp_path) if 'loss' in entry]
    assert len(losses) == 4
    assert np.isfinite(losses).all()  # means over the good iterations
    log = next(tmp_path.rglob('*.log')).read_text()
    assert log.count('skipped: its gradients are not finite') == 2
    assert re.search(
        r'predictions had a matching cost that is not finite .*: \d+ in .*jpg \(image \d+\), decoder layer', log
    )
    assert re.search(r'cannot be learnt. The first has the box \[.*inf.*\] .* Left out', log)
    assert 'annotations were left out: ' in log


def test_ends_where_nothing_can_be_saved(data, tmp_path):
    runner = runner_of(
        data, tmp_path, max_iters=9, poisoned=set(range(1, 9)), custom_hooks=[
            {'type': 'mmdet_detr.SkipNonFiniteHook', 'max_consecutive': 3}
        ]
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r'3 steps in a row .* up to iteration 4'):
        runner.train()


def test_or_ends_at_the_first_bad_annotation(data, tmp_path):
    option = {'model.bbox_head.loss': {'type': 'mmdet_detr.BipartiteMatchLoss', 'on_bad_annotation': 'raise'}}
    with pytest.raises(ValueError, match='cannot be learnt'):
        runner_of(data, tmp_path, max_iters=4, poisoned=set(), **option).train()
