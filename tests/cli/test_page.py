"""``mim run mmdet_detr page``: it serves until it is told to end, and says in one line why it does not."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from detectors import save_checkpoint, small_config
from helpers import ROOT
from processes import TIMEOUT, environment, run, run_tool

from mmdet_detr.cli.page import short_names

WITHOUT_GRADIO = """
import argparse, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == 'gradio' else find(name, *rest)
from mmdet_detr.cli.page import main
main(argparse.Namespace())
"""


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_serves_and_leaves_nothing(tmp_path, how):
    pytest.importorskip('gradio', reason='the page needs gradio: make test-page')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'temporary').mkdir()
    checkpoint = save_checkpoint(tmp_path / 'run', small_config())
    command = [sys.executable, ROOT / 'tools' / 'page.py', checkpoint.parent, checkpoint, '--device', 'cpu']
    server = subprocess.Popen(
        command,
        env=environment(TMPDIR=tmp_path / 'temporary'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, '')
        line = next(line for line in lines if 'http' in line)
        address = line.split()[0]
        assert address.startswith('http://127.0.0.1:')
        with urllib.request.urlopen(address, timeout=60) as answer:
            policy, page = answer.headers['content-security-policy'], answer.read().decode()
        assert "default-src 'self'" in policy
        assert 'Find objects' in page
        assert 'fonts.googleapis.com' not in page
    finally:
        server.send_signal(how)
        _, errors = server.communicate(timeout=TIMEOUT)
    assert (server.returncode, errors) == (0, '')
    left = [path.name for path in (tmp_path / 'temporary').rglob('*')]
    assert set(left) <= {'gradio', 'vibe_edit_history'}  # empty folders that gradio makes when it is imported


def test_bad_arguments(tmp_path):
    pytest.importorskip('gradio', reason='the page needs gradio: make test-page')
    for arguments, reason in (
        ((tmp_path / 'none.pth',), 'none.pth'),
        ((tmp_path / 'none.pth', '--host', '203.0.113.1'), '203.0.113.1 is no address of this machine'),
        ((tmp_path / 'none.pth', '--host', '::x'), '::x is no address of this machine'),
    ):
        done = run_tool('page', *arguments)
        assert done.returncode == 2
        assert reason in done.stderr
        assert done.stderr.count('\n') == 1


def test_without_gradio():
    done = run('-c', WITHOUT_GRADIO)
    assert done.returncode == 2
    assert done.stderr == "page: it needs gradio: pip install 'mmdet_detr[page]'\n"


def test_names_are_short():
    assert short_names(['work_dirs/demo']) == {'work_dirs/demo': 'demo'}
    paths = ['work_dirs/demo', str(Path('work_dirs', 'other', 'epoch_3.pth').absolute())]
    assert list(short_names(paths).values()) == ['demo', 'other/epoch_3.pth']


def test_a_busy_port_is_told_before_anything_is_loaded():
    pytest.importorskip('gradio', reason='the page needs gradio: make test-page')
    with socket.create_server(('127.0.0.1', 0)) as server:
        done = run_tool('page', 'none.pth', '--port', server.getsockname()[1])
        port = server.getsockname()[1]
    assert done.returncode == 2
    assert done.stderr == (
        f'page: port {port} of 127.0.0.1 cannot be used (Address already in use): name another by --port\n'
    )
