"""Run the scripts that mmdet ships in its package."""

import errno
import runpy
import sys
import traceback
from pathlib import Path
from types import FrameType

import mmdet
import torch.distributed as dist
from mmengine.hooks import Hook

from ..compat.cpu_ranks import allow_ranks_on_cpu
from ..compat.kept_config import keep_config
from ..configs import load_config
from ..engine.preemption_hook import EXIT_CODE
from ..errors import UserError, one_line
from ..safe_config import forbid_code, require_safe_config
from .fail import fail

LONGEST_REASON = 300  # characters
HOOK_POINTS = ('before_run', 'before_train', 'before_train_epoch', 'before_val', 'before_test')  # they look at the run
SAFE = '--safe-config'
INTERRUPTED = 130  # exit code of shells after Ctrl-C


def run_mmdet_tool(tool: str) -> None:
    """Run ``tools/{tool}.py`` of the installed mmdet with this process's arguments.

    A config or checkpoint that cannot be used, parts of a config that do not fit together and a full disk end the
    process with one line and exit code 2, instead of a stack trace from inside mmengine.
    ``--safe-config`` refuses configs that could run code (:mod:`mmdet_detr.safe_config`).
    """
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / f'{tool}.py'
    if not script.exists():
        fail(tool, f'{script} is missing: install mmdet from a wheel, its tools come with it')
    allow_ranks_on_cpu()
    keep_config(tool)
    try:
        if SAFE in sys.argv:
            sys.argv.remove(SAFE)
            require_safe_config(Path(sys.argv[1]))
            forbid_code()
        if len(sys.argv) > 1 and not sys.argv[1].startswith('-'):
            load_config(sys.argv[1])  # the script reads it again, and would show a stack trace
        _run(script)
    except KeyboardInterrupt:
        print(f'{tool}: interrupted; a training goes on from its last checkpoint by --resume', file=sys.stderr)
        sys.exit(INTERRUPTED)
    except UserError as error:
        fail(tool, _last_line(str(error)))
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            fail(tool, f'{error.filename or "a file of the run"} cannot be written: {error.strerror}')
        refused = _refused_part(error)
        if refused is None:
            raise
        fail(tool, f'{refused} cannot be built from the config: {_reason(error)}')


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
    """The part of the config that does not fit: its type, or a word for it. None for an error from anywhere else."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    checked = isinstance(error, AssertionError | ValueError)
    while checked and frames[-1].f_code.co_name == '__init__':  # others raise no TypeError or KeyError on purpose
        frames.pop()
    line = traceback.extract_tb(error.__traceback__)[-1].line or ''
    if line.startswith(('raise ', 'assert ')) or isinstance(error, OSError):  # raised on purpose, or a file is missing
        named = (part for frame in reversed(frames) if (part := _part_of(frame)))
        return next(named, None)
    return _part_of(frames[-1])


def _part_of(frame: FrameType) -> str | None:
    name = frame.f_code.co_name
    if name == 'build_from_cfg':
        return str(frame.f_locals['cfg'].get('type', 'a part without a type'))
    if name in HOOK_POINTS and isinstance(hook := frame.f_locals.get('self'), Hook):
        return type(hook).__name__
    return {'build_dataloader': 'a data loader', 'from_cfg': 'a run'}.get(name)


def _reason(error: Exception) -> str:
    """The message of an error in one line that can be read; of an assertion without one, what it asserts."""
    message = one_line(error) or traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__
    return message if len(message) <= LONGEST_REASON else f'{message[:LONGEST_REASON]}...'


def _last_line(message: str) -> str:
    """A message without the stack trace that PyTorch puts before an error of a data loader's worker."""
    if 'Original Traceback' not in message:
        return message
    return message.strip().splitlines()[-1].partition(': ')[2]
