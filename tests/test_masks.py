"""Panoptic segmentation by the tools, from the generated images to the report."""

import json

import pytest
import torch
from helpers import ROOT
from processes import run_tool
from ranks import equal
from torch import Tensor

from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

CONFIG = ROOT / 'configs' / 'detr' / 'detr_tiny_panoptic_shapes.py'
SHORT = (
    'train_dataloader.batch_size=4',
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=3',
    'default_hooks.logger.interval=1',
    'randomness.seed=0',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with images, and a run of four iterations in ``whole``."""
    root = tmp_path_factory.mktemp('masks')
    for split, count in (('train', 16), ('val', 4)):
        list(write_shapes(root / 'data' / 'shapes', split, count, ShapesOptions()))
    finished = run_tool('train', CONFIG, '--work-dir', root / 'whole', '--cfg-options', *SHORT, cwd=root)
    assert finished.returncode == 0, finished.stderr
    return root


def weights(path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=False)['state_dict']


def test_the_log_has_losses_and_metrics_of_masks(folder):
    [path] = folder.glob('whole/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {'loss_mask', 'loss_dice', 'dn.loss_cls', 'dense.loss_cls'} <= lines[0].keys()
    assert {'coco_panoptic/PQ', 'coco_panoptic/PQ_st', 'coco/bbox_mAP', 'coco/segm_mAP'} <= lines[-1].keys()


def test_a_resumed_run_ends_with_the_same_weights(folder):
    options = (*SHORT, f'load_from={folder / "whole" / "iter_2.pth"}')
    finished = run_tool(
        'train', CONFIG, '--work-dir', folder / 'resumed', '--resume', '--cfg-options', *options, cwd=folder
    )
    assert finished.returncode == 0, finished.stderr
    whole, resumed = (weights(folder / run / 'iter_4.pth') for run in ('whole', 'resumed'))
    assert equal(whole, resumed)
    assert not equal(whole, weights(folder / 'whole' / 'iter_2.pth'))


def test_masks_on_frozen_boxes(folder):
    """From a checkpoint of boxes, as the published recipe; the detector stays as it is."""
    boxes = {name: value for name, value in weights(folder / 'whole' / 'iter_4.pth').items() if 'mask_head' not in name}
    torch.save({'state_dict': boxes}, folder / 'boxes.pth')
    options = (
        *SHORT,
        f'load_from={folder / "boxes.pth"}',
        'model.freeze_detector=True',
        'train_cfg.max_iters=2',
        'default_hooks.checkpoint.interval=1',
    )
    finished = run_tool('train', CONFIG, '--work-dir', folder / 'frozen', '--cfg-options', *options, cwd=folder)
    assert finished.returncode == 0, finished.stderr
    trained = weights(folder / 'frozen' / 'iter_2.pth')
    assert equal(boxes, trained)
    first = weights(folder / 'frozen' / 'iter_1.pth')
    assert not torch.equal(trained['mask_head.lay2.weight'], first['mask_head.lay2.weight'])


def test_tests_draws_and_reports(folder):
    checkpoint = folder / 'whole' / 'iter_4.pth'
    finished = run_tool(
        'test', CONFIG, checkpoint, '--work-dir', folder / 'whole', '--show-dir', 'pictures', cwd=folder
    )
    assert finished.returncode == 0, finished.stderr
    assert len(list(folder.glob('whole/*/pictures/*'))) == 4
    finished = run_tool('report', folder / 'whole', cwd=folder)
    assert finished.returncode == 0, finished.stderr
    assert 'PQ' in finished.stdout
