"""Work of ``mim run mmdet_detr page``."""

import argparse
import importlib.util
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import MMLogger

from ..errors import UserError
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):  # Python leaves SIGINT alone where a shell ignores it
        signal.signal(number, lambda *_: sys.exit(0))  # uploads are deleted in this way
    with errors_in_one_line('page'):
        if importlib.util.find_spec('gradio') is None:
            raise UserError("it needs gradio: pip install 'mmdet_detr[page]'")
        from ..inference import load
        from ..page.app import require_free, serve_page  # gradio takes seconds

        require_free(args.host, args.port)
        names = short_names(args.checkpoint)
        detectors = {names[path]: load(path, args.config, args.device) for path in names}
        with serve_page(detectors, args.host, args.port, args.score_thr) as address:
            print(f'{address} (Ctrl-C ends it)', flush=True)
            threading.Event().wait()


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Names of checkpoints by their paths: the paths from the folder that all are in."""
    folder = os.path.commonpath([Path(path).absolute().parent for path in paths])
    return {path: os.path.relpath(path, folder) for path in paths}
