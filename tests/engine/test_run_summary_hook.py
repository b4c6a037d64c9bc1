import re

import pytest
from helpers import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from runs import BY_ITERATION, train

from mmdet_detr.engine.run_summary_hook import _classes, _count, _is_frozen, _is_pretrained

HOOKS = {'custom_hooks': [{'type': 'mmdet_detr.RunSummaryHook'}]}
SHORT = {**BY_ITERATION, 'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 2}


def test_says_what_is_trained_and_what_came_out(shapes, tmp_path, capsys):
    train(shapes, tmp_path, SHORT, **HOOKS)
    out = capsys.readouterr().out
    assert re.search(r'training    \S+/instances_train.json: 24 images, \d+ objects, 3 classes \(circle, square, ', out)
    assert re.search(r'validation  \S+/instances_val.json: 4 images, \d+ objects\n', out)
    assert 'model       DETR, 0.5 M parameters, from random weights\n' in out
    assert 'device      1 x CPU, 8 images a step\n' in out
    assert 'schedule    2 iterations, validation every 2 iterations; Muon at 0.001 and 0.01\n' in out
    assert re.search(rf'log         {tmp_path}/\d+_\d+/\d+_\d+\.log', out)
    assert re.search(rf'Last AP [\d.]+: {tmp_path}/iter_2\.pth\n', out)
    assert f'Next: mim run mmdet_detr evaluate {tmp_path} (' in out
    assert 'random, also' not in out  # nothing of this backbone is frozen


def test_is_brief_where_the_rest_was_said(shapes, tmp_path, capsys):
    brief = {'custom_hooks': [{'type': 'mmdet_detr.RunSummaryHook', 'brief': True}]}
    train(shapes, tmp_path, {**SHORT, 'train_cfg.max_iters': 1}, **brief)
    out = capsys.readouterr().out
    assert 'Training DETR, 0.5 M parameters, from random weights, on 1 x CPU, 8 images a step; log: ' in out
    assert 'schedule' not in out


def test_names_the_best_checkpoint(shapes, tmp_path, capsys):
    train(shapes, tmp_path, SHORT, **HOOKS, **{'default_hooks.checkpoint.save_best': 'coco/bbox_mAP'})
    assert re.search(r'Best AP [\d.]+: \S+/best_coco_bbox_mAP_iter_2\.pth\n', capsys.readouterr().out)


def test_warns_about_a_frozen_backbone_with_random_weights(shapes, tmp_path, capsys):
    frozen = {'model.backbone.frozen_stages': 1, 'train_cfg.max_iters': 1}
    train(shapes, tmp_path, SHORT, **HOOKS, **frozen)
    warnings = [line for line in capsys.readouterr().out.splitlines() if 'WARNING' in line]
    assert [line.partition('WARNING')[2] for line in warnings if 'random' in line] == [
        ' - Without load_from all weights start random, also those of the backbone (init_cfg=None), whose frozen '
        'parts stay so: add load_from=CHECKPOINT to --cfg-options.'
    ]


@pytest.mark.parametrize('pretrained', [True, False])
def test_knows_a_pretrained_backbone_of_the_paper(pretrained):
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py').model.backbone
    if not pretrained:
        config.init_cfg = None
    backbone = MODELS.build(config)
    assert _is_frozen(backbone)
    assert _is_pretrained(backbone) is pretrained


def test_counts():
    assert _count(1, 'epoch') == '1 epoch'
    assert _classes('abcdefgh') == '8 classes (a, b, c, d, e, f and 2 more)'
    assert _classes(['raccoon']) == '1 class (raccoon)'
