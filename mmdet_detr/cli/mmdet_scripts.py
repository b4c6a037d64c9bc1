"""Run the scripts that mmdet ships in its package."""

import errno
import runpy
import sys
import traceback
from pathlib import Path

import mmdet
import torch.distributed as dist

from ..compat.cpu_ranks import allow_ranks_on_cpu
from ..configs import load_config
from ..engine.preemption_hook import EXIT_CODE
from ..errors import UserError, one_line
from .fail import fail
from .safe_config import forbid_code, require_safe_config

SAFE = '--safe-config'


def run_mmdet_tool(tool: str) -> None:
    """Run ``tools/{tool}.py`` of the installed mmdet with this process's arguments.

    A config or checkpoint that cannot be used, parts of a config that do not fit together and a full disk end the
    process with one line and exit code 2, instead of a stack trace from inside mmengine.
    ``--safe-config`` refuses configs that could run code (:mod:`mmdet_detr.cli.safe_config`).
    """
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / f'{tool}.py'
    if not script.exists():
        fail(tool, f'{script} is missing: install mmdet from a wheel, its tools come with it')
    allow_ranks_on_cpu()
    try:
        if SAFE in sys.argv:
            sys.argv.remove(SAFE)
            require_safe_config(Path(sys.argv[1]))
            forbid_code()
        if len(sys.argv) > 1 and not sys.argv[1].startswith('-'):
            load_config(sys.argv[1])  # the script reads it again, and would show a stack trace
        _run(script)
    except UserError as error:
        fail(tool, _last_line(str(error)))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        refused = _refused_part(error)
        if refused is None:
            raise
        fail(tool, f'{refused} cannot be built from the config: {one_line(error)}')
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(tool, f'{error.filename or "a file of the run"} cannot be written: {error.strerror}')


def _run(script: Path) -> None:
    try:
        runpy.run_path(str(script), run_name='__main__')
    except SystemExit as ended:
        if ended.code == EXIT_CODE:
            _end_ranks()
        raise
    _end_ranks()


def _end_ranks() -> None:
    """End the process group. mmengine leaves that to Python's exit, and PyTorch may abort there."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _refused_part(error: Exception) -> str | None:
    """The type in the config whose constructor refused its arguments; None for an error from anywhere else."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    checked = isinstance(error, AssertionError | ValueError)
    while checked and frames[-1].f_code.co_name == '__init__':  # others raise no TypeError or KeyError on purpose
        frames.pop()
    last = frames[-1]
    if last.f_code.co_name == 'build_from_cfg':
        return str(last.f_locals['cfg'].get('type'))
    return 'a data loader' if last.f_code.co_name == 'build_dataloader' else None


def _last_line(message: str) -> str:
    """A message without the stack trace that PyTorch puts before an error of a data loader's worker."""
    if 'Original Traceback' not in message:
        return message
    return message.strip().splitlines()[-1].partition(': ')[2]
