"""A process that has imported torch and mmdet, and forks: a tool starts in milliseconds instead of five CPU seconds.

``processes.py`` starts it and asks for processes through a socket, the standard input. A request is the length of a
JSON text (four bytes), three files (standard output, standard error and a pipe for the report), and the text: the
arguments of the interpreter, the working directory and the environment. The forked process reports its id, and this
one reports its exit code.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import types

import numpy as np
import torch

import mmdet_detr

HEADER = 4  # bytes
Request = tuple[list[int], dict]


def serve(requests: socket.socket) -> Request | None:
    """Fork at every request. Gives the request in the forked process, and None when the other end is closed."""
    wakeup, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(signalled)
    reports: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 1024)
            report_the_ended(reports)
        if requests in ready:
            header, files, _, _ = socket.recv_fds(requests, HEADER, 3)
            if not header:
                break
            text = requests.recv(int.from_bytes(header, 'big'), socket.MSG_WAITALL)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for file in (*reports.values(), wakeup, signalled, requests.detach()):
                    os.close(file)
                return files, json.loads(text)
            out, err, reports[pid] = files
            os.close(out)
            os.close(err)
    for pid in reports:
        os.killpg(pid, signal.SIGKILL)
    return None


def report_the_ended(reports: dict[int, int]) -> None:
    for pid in list(reports):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            report = reports.pop(pid)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(report, f'{os.waitstatus_to_exitcode(status)}\n'.encode())
            os.close(report)


def become(files: list[int], cwd: str, env: dict[str, str]) -> None:
    """Take the files, the folder and the environment of the process that was asked for."""
    out, err, report = files
    os.setsid()
    os.write(report, f'{os.getpid()}\n'.encode())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, max(files) + 1)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None  # TMPDIR may be another one
    np.random.seed()  # contrary to random, numpy keeps its state in a fork


def run(arguments: list[str]) -> None:
    first, *rest = arguments
    if first == '-c':
        sys.argv, sys.path[0] = ['-c', *rest[1:]], ''
        main = sys.modules['__main__'] = types.ModuleType('__main__')
        exec(compile(rest[0], '<string>', 'exec'), main.__dict__)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(first))
        runpy.run_path(first, run_name='__main__')


def exit_code(arguments: list[str]) -> int:
    """Run to the end, and give the exit code that the interpreter would end with."""
    try:
        run(arguments)
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == '__main__':
    torch.set_num_threads(1)
    ours = {module.name for module in pkgutil.walk_packages(mmdet_detr.__path__, 'mmdet_detr.')}
    ours.remove('mmdet_detr.page.app')  # needs gradio
    for name in (*sorted(ours), 'mmdet.apis', 'matplotlib.pyplot'):
        importlib.import_module(name)
    assert threading.active_count() == 1, 'a fork would leave the threads behind'
    sys.stdout.flush()  # what importing has printed; every forked process would print it too
    gc.collect()
    gc.freeze()  # a collection in a forked process leaves the shared memory alone
    if request := serve(socket.socket(fileno=os.dup(0))):
        files, asked = request
        become(files, asked['cwd'], asked['env'])
        code = exit_code(asked['arguments'])
        # Freeing all that was imported takes a third of a second, most of the time of a short tool.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)
