"""The one way in which a tool fails: one line on stderr, exit code 2."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from ..errors import UserError, one_line


def fail(tool: str, message: object) -> NoReturn:
    """End the process with one line. The exit codes 0 and 1 are for tools that did their work."""
    print(f'{tool}: {one_line(message)}', file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def errors_in_one_line(tool: str, *more: type[Exception]) -> Iterator[None]:
    """Let the errors of the user and of the file system, and ``more``, end the process by :func:`fail`."""
    shown: tuple[type[Exception], ...] = (UserError, OSError, *more)
    try:
        yield
    except shown as error:
        fail(tool, error)
