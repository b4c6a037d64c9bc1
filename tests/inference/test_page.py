"""The page on inference: its Python runs, and its commands have arguments that the tool takes."""

import re
import shlex

import cv2
import numpy as np
from detectors import save_checkpoint, small_config
from helpers import ROOT
from mmengine.registry import DefaultScope

PAGE = (ROOT / 'docs' / 'inference.md').read_text()


def test_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / 'work_dirs' / 'demo'
    run.mkdir(parents=True)
    config = small_config()
    save_checkpoint(run, config).rename(run / 'iter_3800.pth')
    (run / 'last_checkpoint').write_text('iter_3800.pth')
    config.dump(run / 'detr_tiny_shapes.py')
    pixels = np.random.default_rng(0).integers(0, 256, (700, 800, 3), dtype=np.uint8)
    cv2.imwrite('photo.jpg', pixels[:64, :64])
    cv2.imwrite('map.png', pixels)
    names: dict = {}
    for block in re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL):
        with DefaultScope.overwrite_default_scope('mmdet'):
            exec(block, names)
    assert capsys.readouterr().out.count('[') >= 3
    assert names['result'].boxes.shape == (len(names['result'].names), 4)
    assert names['detections'].xyxy.max() > 640  # the second tile
    assert (tmp_path / 'found.png').exists()
    assert (tmp_path / 'out' / 'vis' / 'photo.jpg').exists()


def test_commands():
    commands = re.findall(r'mim run mmdet_detr predict (.*)', PAGE)
    options = set(re.findall(r"'(--[\w-]+)'", (ROOT / 'tools' / 'predict.py').read_text()))
    assert len(commands) == 6
    for command in commands:
        words = shlex.split(command, comments=True)
        assert not any(word.startswith('-') for word in words[:2])
        assert {word for word in words if word.startswith('--')} <= options
