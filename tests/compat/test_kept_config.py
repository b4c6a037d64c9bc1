from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner

from mmdet_detr.compat.kept_config import keep_config

WRITTEN = '#mine\nresume=False'


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a tool with a config in a folder for a run, and returns the config that is there afterwards."""
    for kind in (Runner, FlexibleRunner):
        monkeypatch.setattr(kind, 'dump_config', kind.dump_config)  # to be restored

    def started(tool: str, config: str, folder: str) -> str:
        keep_config(tool)
        read = Config.fromfile(tmp_path / config)
        read.resume = True
        for kind in (Runner, FlexibleRunner):
            kind.dump_config(SimpleNamespace(cfg=read, work_dir=str(tmp_path / folder)))
        return (tmp_path / folder / 'config.py').read_text().replace(' ', '').strip()

    for folder in ('run', 'empty', 'own'):
        (tmp_path / folder).mkdir()
    for path in ('run/config.py', 'own/config.py'):
        (tmp_path / path).write_text(WRITTEN)
    return started


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_the_file_that_is_read_stays(start, tool):
    assert start(tool, 'run/config.py', 'run') == WRITTEN
    assert start(tool, 'run/config.py', 'run/../run') == WRITTEN


def test_a_test_keeps_the_config_of_the_training(start):
    assert start('test', 'own/config.py', 'run') == WRITTEN
    assert start('test', 'own/config.py', 'empty') == 'resume=True'


def test_a_training_writes_its_config(start):
    assert start('train', 'own/config.py', 'run') == 'resume=True'
    assert start('train', 'own/config.py', 'empty') == 'resume=True'
