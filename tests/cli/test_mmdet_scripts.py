"""Ends of mmdet's scripts that no config brings about."""

import sys

import pytest

from mmdet_detr.cli import mmdet_scripts


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(script):
        raise KeyboardInterrupt

    monkeypatch.setattr(mmdet_scripts, '_run', interrupted)
    monkeypatch.setattr(sys, 'argv', ['train'])
    with pytest.raises(SystemExit) as ended:
        mmdet_scripts.run_mmdet_tool('train')
    assert ended.value.code == 130
    assert capsys.readouterr().err == 'train: interrupted; a training goes on from its last checkpoint by --resume\n'
