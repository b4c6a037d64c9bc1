"""Processes that tests start: forked ones, which start in no time, and real ones where the start is tested."""

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from helpers import ROOT

FORK_SERVER = Path(__file__).with_name('fork_server.py')
TIMEOUT = 300  # seconds
AT_FIRST = dict(os.environ)  # before any test changes it


def environment(**more: object) -> dict[str, str]:
    """This environment with its scripts first in PATH, without a GPU and with one thread a process."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    always = {'PATH': path, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    return {**os.environ, **always, **{name: str(value) for name, value in more.items()}}


@functools.cache  # started by the first test that needs it
def fork_server() -> tuple[socket.socket, subprocess.Popen]:
    ours, theirs = socket.socketpair()
    server = subprocess.Popen(
        [sys.executable, FORK_SERVER],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        env={**AT_FIRST, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'},
        cwd=ROOT,
    )
    theirs.close()
    return ours, server


def stop_fork_server() -> None:
    if fork_server.cache_info().currsize:
        requests, server = fork_server()
        requests.close()
        server.wait(TIMEOUT)
        fork_server.cache_clear()


class Forked:
    """``python ARGUMENTS`` in a session of its own, with the interface of ``subprocess.Popen``."""

    def __init__(self, *arguments: object, cwd: Path | None = None, merge: bool = False, **env: object) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self.returncode: int | None = None
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  (open until the process is forgotten)
        self._err = self._out if merge else tempfile.TemporaryFile()  # noqa: SIM115
        self._report, report = os.pipe()
        request = {'arguments': self.arguments, 'cwd': str(cwd or Path.cwd()), 'env': environment(**env)}
        text = json.dumps(request).encode()
        requests, server = fork_server()
        files = [self._out.fileno(), self._err.fileno(), report]
        socket.send_fds(requests, [len(text).to_bytes(4, 'big')], files)
        requests.sendall(text)
        os.close(report)
        line = self._line(TIMEOUT)
        assert line, f'the fork server ended with {server.poll()}'
        self.pid = int(line)

    def _line(self, timeout: float) -> bytes:
        """The next line of the report; empty where the server has ended."""
        if not select.select([self._report], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        line = b''
        while not line.endswith(b'\n') and (byte := os.read(self._report, 1)):
            line += byte
        return line

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = TIMEOUT) -> int:
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
            os.close(self._report)
        return self.returncode

    def communicate(self, timeout: float = TIMEOUT) -> tuple[str, str]:
        """What it wrote. It is killed where it takes longer than the timeout."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired as expired:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()
            raise AssertionError(f'{expired}\n{self._read(self._out)}{self._read(self._err)}') from None
        return self._read(self._out), self._read(self._err)

    @staticmethod
    def _read(file) -> str:
        file.seek(0)
        return file.read().decode()


def run(*arguments: object, cwd: Path | None = None, **env: object) -> subprocess.CompletedProcess:
    """Run a script in a forked process, as ``python SCRIPT ARGUMENTS`` would."""
    process = Forked(*arguments, cwd=cwd, **env)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.arguments, process.returncode, out, err)


def run_tool(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """What ``mim run mmdet_detr NAME ARGUMENTS`` runs."""
    return run(ROOT / 'tools' / f'{name}.py', *arguments, cwd=cwd)


def start_real(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a command from its very start."""
    command = [str(part) for part in command]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=TIMEOUT)


def call(function: Callable, *arguments: object) -> Forked:
    """Call a function of a module of the tests, with arguments that have a literal form."""
    text = ', '.join(repr(str(a) if isinstance(a, Path) else a) for a in arguments)
    code = f'import {function.__module__} as module; module.{function.__name__}({text})'
    return Forked('-c', f'import sys; sys.path.append({str(FORK_SERVER.parent)!r}); {code}', merge=True)


def call_on_ranks(function: Callable[[int, str], None], folder: Path) -> None:
    """Call a function of (rank, folder) in two processes."""
    ranks = [call(function, rank, folder) for rank in range(2)]
    outputs = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs


def wait_for(condition: Callable[[], object], process: Forked | subprocess.Popen, interval: float = 0.05) -> None:
    """Wait until a process has come that far; fails where it ends before, or takes too long."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, f'ended before, with {process.returncode}'
        assert time.monotonic() < end, 'did not get there'
        time.sleep(interval)
