"""Work of ``mim run mmdet_detr mmdet_tool``."""

import argparse
import runpy
import sys
from pathlib import Path

import mmdet

from ..errors import ConfigError
from .fail import errors_in_one_line

TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'


def main(args: argparse.Namespace) -> None:
    """Run a script of mmdet's tools, or list them."""
    with errors_in_one_line('mmdet_tool'):
        scripts = find_scripts()
        if args.name is None:
            print('\n'.join(sorted(scripts)))
            return
        if args.name not in scripts:
            raise ConfigError(f'mmdet has no tool {args.name!r}: mmdet_tool without a name lists those that it has')
        script = str(scripts[args.name])
        sys.argv = [script, *args.arguments]
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name='__main__')


def find_scripts() -> dict[str, Path]:
    """The scripts of the installed mmdet by name; of equal names, the one in the upper folder."""
    found: dict[str, Path] = {}
    for path in sorted(TOOLS.rglob('*.py'), key=lambda path: len(path.parts)):
        found.setdefault(path.stem, path)
    if not found:
        raise ConfigError(f'{TOOLS} has no scripts: install mmdet from a wheel, its tools come with it')
    return found
