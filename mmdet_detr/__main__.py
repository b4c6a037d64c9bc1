"""``python -m mmdet_detr COMMAND ...`` runs ``tools/COMMAND.py`` as mim does, and ends with its exit code."""

import runpy
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent


def main(arguments: list[str]) -> None:
    """Run the command of the first argument, or list all of them."""
    folders = (PACKAGE / '.mim' / 'tools', PACKAGE.parent / 'tools')  # of a regular install, of a checkout
    folder = next(folder for folder in folders if folder.is_dir())
    name = 'help' if not arguments or arguments[0] in ('-h', '--help') else arguments[0]
    names = sorted(path.stem for path in folder.glob('[a-z]*.py'))
    if name not in names:
        print(f'mmdet_detr: no command {name!r}; there are {", ".join(names)}', file=sys.stderr)
        sys.exit(2)
    script = str(folder / f'{name}.py')
    sys.argv = [script, *arguments[1:]]
    sys.path[0] = str(folder)  # as if Python had been started with the script
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    main(sys.argv[1:])
