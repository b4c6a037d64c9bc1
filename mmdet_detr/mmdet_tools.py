"""Run the scripts that mmdet ships in its package."""

import runpy
import sys
from pathlib import Path
from typing import NoReturn

import mmdet


def run_mmdet_tool(name: str) -> None:
    """Run ``tools/{name}.py`` of the installed mmdet with this process's arguments.

    A file named on the command line that does not exist ends the process with one line and exit code 2, instead of a
    stack trace from inside mmengine.
    """
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / f'{name}.py'
    if not script.exists():
        _fail(name, f'{script} is missing: install mmdet from a wheel, its tools come with it')
    positional = []
    for argument in sys.argv[1:]:
        if argument.startswith('-'):
            break
        positional.append(argument)
    for argument in positional:
        if '://' not in argument and not Path(argument).is_file():
            _fail(name, f'no such file: {argument}')
    runpy.run_path(str(script), run_name='__main__')


def _fail(name: str, message: str) -> NoReturn:
    print(f'{name}: {message}', file=sys.stderr)
    sys.exit(2)
