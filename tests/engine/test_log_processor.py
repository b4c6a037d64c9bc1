import json
from datetime import timedelta
from types import SimpleNamespace

import pytest
from runs import BY_EPOCH, train

from mmdet_detr.engine.log_processor import LogProcessor, MMEngineLogProcessor, _duration, _number

HOOKS = {'custom_hooks': [{'type': 'mmdet_detr.RunSummaryHook'}, {'type': 'mmdet_detr.ReproducibleHook'}]}
SHORT = {'train_cfg.max_epochs': 1, 'train_dataloader.dataset.indices': 16, **HOOKS}


@pytest.fixture
def printed(shapes, tmp_path, capsys):
    """Trains two iterations of an epoch and validates; gives the terminal's lines and the folder of the log."""

    def run(**options: object):
        train(shapes, tmp_path / 'run', BY_EPOCH, **SHORT, **options)
        return capsys.readouterr().out.splitlines(), next((tmp_path / 'run').glob('*/*.log')).parent

    return run


def test_lines_are_short_and_scalars_complete(printed):
    lines, folder = printed()
    first = next(number for number, line in enumerate(lines) if 'Epoch(train)' in line)
    assert first <= 15
    iterations = [line for line in lines if 'Epoch(train)' in line]
    assert len(iterations) == 2
    assert all(len(line) <= 120 and 'loss_cls' not in line for line in iterations)
    results = [line for line in lines if 'AP50' in line]
    assert len(results) == 1
    assert not [line for line in lines if 'Average Precision' in line or 'index' in line or '_copypaste' in line]
    log = next(folder.glob('*.log')).read_text()
    assert log.count('Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all') == 1
    assert 'Hooks will be executed' in log
    entries = [json.loads(line) for line in (folder / 'vis_data' / 'scalars.json').read_text().splitlines()]
    assert {'loss', 'loss_cls', 'd0.loss_cls', 'dn.loss_iou', 'query_spread', 'lr', 'time'} <= entries[0].keys()
    assert f'loss {entries[0]["loss"]:.5g}  ' in iterations[0]
    shown = f'AP {entries[-1]["coco/bbox_mAP"]:.3f}  AP50 {entries[-1]["coco/bbox_mAP_50"]:.3f}  '
    assert shown in results[0]
    assert results[0].endswith('M -  L -')  # the shapes are small, all of them


def test_all_losses_on_request(printed):
    lines, _ = printed(**{'log_processor.all_losses': True})
    assert all('d0.loss_cls: ' in line for line in lines if 'Epoch(train)' in line)


def test_mmengines_own_processor_has_its_own_lines(printed):
    lines, _ = printed(log_processor={'_delete_': True, 'type': 'LogProcessor', 'window_size': 5})
    assert all('d0.loss_cls: ' in line for line in lines if 'Epoch(train)' in line)
    assert sum('coco/bbox_mAP: ' in line for line in lines) == 1


@pytest.mark.parametrize(
    ('duration', 'text'),
    [
        ({'seconds': 61.7}, '0:01:01'),
        ({'hours': 23}, '23:00:00'),
        ({'days': 5, 'hours': 7.5}, '5d 7h'),
        ({'days': 12, 'hours': 7}, '12d'),
    ],
)
def test_remaining_time(duration, text):
    assert _duration(timedelta(**duration).total_seconds()) == text


def test_numbers():
    assert [_number(value, 3) for value in (0.12345, -1.0, 7, 'a')] == ['0.123', '-', '7', 'a']


def test_the_longest_line_fits(monkeypatch):
    """The first iterations of 150 epochs of COCO on a large GPU, with what the logger writes before it."""
    scalars = {'base_lr': 1e-4, 'lr': 1e-5, 'time': 11.7268, 'loss': 33.75212, 'd0.loss_cls': 1.0, 'memory': 123456}
    text = 'Epoch(train) [150][14785/14786]  base_lr: 1.0000e-04 lr: 1.0000e-05  eta: 123 days, 11:22:33  time: 11.7268'
    monkeypatch.setattr(MMEngineLogProcessor, 'get_log_after_iter', lambda *_: (scalars, text))
    runner = SimpleNamespace(message_hub=SimpleNamespace(runtime_info=['eta'], get_info=lambda _: 123.5 * 86400))
    tag, line = LogProcessor().get_log_after_iter(runner, 0, 'train')
    assert tag is scalars
    assert line == 'Epoch(train) [150][14785/14786]  loss 33.752  11.7 s  eta 123d  lr 1.0e-04  120.6 GB'
    assert len(f'11/29 08:53:49 - mmengine - INFO - {line}') <= 120
