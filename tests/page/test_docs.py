"""The page on the page: its Python runs, and its commands have arguments that the tool takes."""

import re
import shlex
import shutil

import pytest
from helpers import ROOT

PAGE = (ROOT / 'docs' / 'page.md').read_text()


def test_python(checkpoint, tmp_path, monkeypatch, capsys):
    pytest.importorskip('gradio', reason='the page needs gradio: make test-page')
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint.parent, tmp_path / 'work_dirs' / 'demo')
    (code,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    exec(code, {})
    assert re.search(r'^http://127.0.0.1:\d+/$', capsys.readouterr().out, re.MULTILINE)


def test_commands():
    options = set(re.findall(r"'(--[\w-]+)'", (ROOT / 'tools' / 'page.py').read_text()))
    commands = re.findall(r'mim run mmdet_detr page (.*)', PAGE)
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command, comments=True)
        assert {word for word in words if word.startswith('--')} <= options
