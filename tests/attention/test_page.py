"""The page, and the tool that writes it."""

import re
import shlex
from pathlib import Path

import cv2
import pytest
from attention_images import IMAGE
from detectors import save_checkpoint, small_config
from helpers import ROOT
from mmengine.registry import DefaultScope
from processes import run_tool

from mmdet_detr.attention.page import Choice, write_page

PAGE = ROOT / 'docs' / 'seeing.md'


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A run, a panoptic run, and an image."""
    folder = tmp_path_factory.mktemp('attention')
    for name, panoptic in (('run', False), ('panoptic', True)):
        (folder / name).mkdir()
        config = small_config(panoptic)
        config.test_dataloader.dataset.data_root = f'{shapes}/'
        save_checkpoint(folder / name, config)
        config.dump(folder / name / 'config.py')
    cv2.imwrite(str(folder / 'photo.png'), IMAGE)
    (folder / 'text.txt').write_text('text')
    return folder


def test_a_run(folder):
    """Pictures and page are in its folder."""
    arguments = ('run', 'photo.png', '--score-thr', 0.8, '--heads', 2, '--portraits', '--max-images', 3)
    done = run_tool('attention', *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    out = folder / 'run' / 'attention'
    names = ['decoder.png', 'encoder.png', 'heads.png', 'index.html', 'layers.png', 'portraits.png']
    assert sorted(path.name for path in out.iterdir()) == names
    page = (out / 'index.html').read_text()
    assert re.findall(r'<img src="(\w+)\.png"', page) == ['decoder', 'heads', 'encoder', 'layers', 'portraits']
    assert '<p class="note">photo.png</p>' in page
    assert re.search(r'^\d+ detections, 5 pictures: run/attention/index.html$', done.stdout, re.MULTILINE)


def test_a_page_has_no_pictures_of_the_one_before(attention, tmp_path):
    (tmp_path / 'heads.png').touch()
    names = write_page(attention, tmp_path, Choice(points=[(3, 4)]), name='<image>')
    assert names == ['decoder.png', 'encoder.png', 'layers.png']
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'decoder.png',
        'encoder.png',
        'index.html',
        'layers.png',
    ]
    assert '&lt;image&gt;' in (tmp_path / 'index.html').read_text()


def test_masks_of_a_config_with_a_checkpoint(folder, tmp_path):
    arguments = ('panoptic/config.py', '--layer', 2, 'panoptic/iter_7.pth', 'photo.png', '--score-thr', 0.2)
    done = run_tool('attention', *arguments, '--out', tmp_path, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'mask_head.png').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['run', 'none.jpg'], 'none.jpg: '),
        (['run', 'text.txt'], 'text.txt: no image'),
        (['none', 'photo.png'], 'no such file: none'),
        (['run/config.py', 'photo.png'], 'run/config.py is a config: name its weights behind it'),
        (['run', 'photo.png', '--score-thr', '1'], 'nothing is detected: the best score is 0.'),
        (['run', 'photo.png', '--layer', '4'], 'there is no decoder layer 4: they are 1 to 3'),
        (['run', 'photo.png', '--encoder-layer', '0'], 'there is no encoder layer 0: they are 1 to 1'),
        (['run', 'photo.png', '--heads', '1', '5'], 'there is no head 5: they are 1 to 4'),
        (['run', 'photo.png', '--points', '1,2', '70,3'], 'the point 70,3 is outside the image of 70 x 50 pixels'),
        (['run', 'photo.png', '--portraits', 'none.json'], 'none.json'),
        (['run', 'photo.png', '--portraits', 'photo.png'], 'photo.png is no annotation file of COCO'),
        (['run', 'photo.png', '--device', 'meat'], 'there is no device meat'),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, arguments, message):
    done = run_tool('attention', *arguments, '--out', tmp_path / 'out', cwd=folder)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / 'out').exists()


def test_commands_of_the_docs():
    """Their options are those of the tool."""
    text = PAGE.read_text().replace('\\\n', '')
    commands = [shlex.split(line, comments=True) for line in re.findall(r'mim run mmdet_detr attention (.*)', text)]
    options = set(re.findall(r"'(--[\w-]+)'", (ROOT / 'tools' / 'attention.py').read_text()))
    assert len(commands) >= 3
    for words in commands:
        assert {word for word in words if word.startswith('--')} <= options


def test_python_of_the_docs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    cv2.imwrite('photo.jpg', IMAGE)
    code = re.search(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)[1]
    names: dict = {}
    with DefaultScope.overwrite_default_scope('mmdet'):
        exec(code.replace('work_dirs/demo', 'run'), names)
    assert len(capsys.readouterr().out.splitlines()) == len(names['found'].queries) > 0
    assert names['weights'].shape == names['around'].shape == (50, 70)
    assert (folder / 'decoder.png').exists()
