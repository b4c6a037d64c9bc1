"""List the commands, with a line on each."""

import argparse
import ast
from pathlib import Path


def listing() -> str:
    """Name and first line of the docstring of each script in this folder."""
    firsts = {}
    for path in sorted(Path(__file__).parent.glob('[a-z]*.py')):
        firsts[path.stem] = (ast.get_docstring(ast.parse(path.read_text())) or '').partition('\n')[0]
    width = max(map(len, firsts)) + 2
    return '\n'.join(f'  {name:<{width}}{first}' for name, first in firsts.items())


if __name__ == '__main__':
    argparse.ArgumentParser(prog='help', description=__doc__).parse_args()
    print(f'mim run mmdet_detr COMMAND ..., or python -m mmdet_detr COMMAND ...\n\n{listing()}\n')
    print('COMMAND --help lists its arguments. Training and testing by mim: mim train mmdet_detr, mim test mmdet_detr')
