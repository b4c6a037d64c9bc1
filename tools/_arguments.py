"""Check the arguments of mmdet's scripts with the standard library alone: an error takes no seconds to show."""

import argparse
import ast
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn


class KeyValue(argparse.Action):
    """Takes ``KEY=VALUE ...`` as mmengine's ``DictAction`` does, and keeps the texts."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        wrong = [text for text in values if '=' not in text]
        if wrong:
            end(Path(parser.prog).stem, f'{option} takes KEY=VALUE, got {wrong[0]!r}')
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), *values])


class _Parser(argparse.ArgumentParser):
    """mmdet's parser with our option."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        self.add_argument('--safe-config', action='store_true', help='refuse a config that could run code')
        return super().parse_args(*args, **kwargs)


def end(tool: str, message: str) -> NoReturn:
    """End the process as ``mmdet_detr.cli.fail`` does."""
    print(f'{tool}: {message}', file=sys.stderr)
    sys.exit(2)


def check_arguments(tool: str) -> None:
    """Show the help or an error of the arguments of mmdet's ``tools/{tool}.py`` as that script would.

    Only the function ``parse_args`` of the script is executed. A script without such a function is left to itself.
    """
    mmdet = importlib.util.find_spec('mmdet')  # imports nothing
    if mmdet is None or mmdet.origin is None:
        return
    script = Path(mmdet.origin).parent / '.mim' / 'tools' / f'{tool}.py'
    names: dict[str, Any] = {'os': os, 'DictAction': KeyValue}
    names['argparse'] = SimpleNamespace(**{**vars(argparse), 'ArgumentParser': _Parser})
    try:
        functions = [node for node in ast.parse(script.read_text()).body if getattr(node, 'name', '') == 'parse_args']
        exec(compile(ast.Module(functions, []), str(script), 'exec'), names)
        args = names['parse_args']()
        files = [path for path in (args.config, getattr(args, 'checkpoint', '')) if path and '://' not in path]
    except Exception:  # another script than the one that we know: it checks its arguments itself
        return
    for path in files:
        if not os.path.exists(path):
            end(tool, f'no such file: {path}')
