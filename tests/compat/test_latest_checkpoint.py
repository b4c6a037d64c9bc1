import os

import mmengine.runner
import pytest
import torch
from mmengine.runner import runner

from mmdet_detr.compat import latest_checkpoint
from mmdet_detr.compat.latest_checkpoint import find_latest_checkpoint


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of iterations 2, 4 and 6, of which the last was cut off."""
    for second, iteration in enumerate((2, 4, 6)):
        path = tmp_path / f'iter_{iteration}.pth'
        torch.save({'meta': {'iter': iteration}, 'weight': torch.zeros(1000), 'optimizer': {}}, path)
        if iteration == 6:
            path.write_bytes(path.read_bytes()[:2000])
        os.utime(path, (1000 + second, 1000 + second))
    for name in ('best_coco_bbox_mAP_iter_4.pth', 'published.pth'):  # newer, without optimizer
        torch.save({'meta': {'cfg': 'the optimizer'}, 'weight': torch.zeros(1000)}, tmp_path / name)
    return tmp_path


@pytest.fixture
def warnings(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(latest_checkpoint, 'warn', lines.append)
    return lines


def test_mmengine_asks_here():
    assert runner.find_latest_checkpoint is mmengine.runner.find_latest_checkpoint is find_latest_checkpoint


def test_the_named_one(folder):
    (folder / 'last_checkpoint').write_text(f'{folder}/iter_2.pth')
    assert find_latest_checkpoint(str(folder)) == f'{folder}/iter_2.pth'
    (folder / 'last_checkpoint').write_text('s3://bucket/iter_9.pth')
    assert find_latest_checkpoint(str(folder)) == 's3://bucket/iter_9.pth'


@pytest.mark.parametrize('named', ['iter_6.pth', 'iter_8.pth', '', None])
def test_the_newest_complete_one_where_the_named_one_is_not(folder, named, warnings):
    if named is not None:
        (folder / 'last_checkpoint').write_text(f'{folder}/{named}' if named else '')
    assert find_latest_checkpoint(str(folder)) == f'{folder}/iter_4.pth'
    (line,) = warnings
    assert f'going on from {folder}/iter_4.pth' in line


def test_one_that_is_damaged_in_its_middle_is_passed_over(folder, warnings):
    path = folder / 'iter_4.pth'
    content = bytearray(path.read_bytes())
    content[content.index(b'optimizer')] ^= 1
    path.write_bytes(content)
    assert find_latest_checkpoint(str(folder)) == f'{folder}/iter_2.pth'
    (folder / 'iter_2.pth').unlink()  # what is left holds weights alone
    assert find_latest_checkpoint(str(folder)) is None


def test_none(tmp_path, warnings):
    assert find_latest_checkpoint(str(tmp_path)) is None
    assert warnings == []
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/iter_8.pth')
    assert find_latest_checkpoint(str(tmp_path)) is None
    assert 'no other checkpoint is complete' in warnings[0]
