"""Work of ``mim run mmdet_detr export``."""

import argparse
import logging
import signal
import sys
import warnings
from typing import Any

from mmengine.logging import MMLogger

from ..errors import UserError
from ..export import Exported, export
from ..export.check import as_text
from ..export.formats import Shape
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Write the file, and say how far it is from the model."""
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine', log_level='WARNING')
    logging.getLogger('root').setLevel(logging.ERROR)  # ONNX Runtime's advice on quantisation
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes what is not complete
    with errors_in_one_line('export'):
        if args.int8 != (args.images is not None):
            raise UserError('--int8 and --images belong together: --int8 --images FOLDER')
        height, width = args.size or (None, None)
        exported = _uninterrupted(
            args.model,
            args.checkpoint,
            args.out,
            args.to,
            int8_images=args.images,
            bf16=args.bf16,
            raw=args.raw,
            uint8=args.uint8,
            masks=args.masks,
            shape=Shape(args.batch, height, width),
            opset=args.opset,
            checked=not args.no_check,
            measure_ap=not args.no_ap,
            force=args.force,
        )
    print(_summary(exported))


def _uninterrupted(*arguments: Any, **options: Any) -> Exported:
    try:
        return export(*arguments, **options)
    except KeyboardInterrupt:
        print('export: interrupted, nothing is written', file=sys.stderr)
        sys.exit(130)


def _summary(exported: Exported) -> str:
    lines = []
    if exported.differences is None:
        lines.append('not compared with the model')
    else:
        lines.append(f'largest difference to the model: {as_text(exported.differences)}')
    if exported.ap is not None:
        before, after = exported.ap['model'], exported.ap['file']
        lines.append(f'AP on the test data: {before:.4f} of the model, {after:.4f} of the file')
    size = sum(path.stat().st_size for path in exported.files) / 2**20
    lines.append(f'written: {", ".join(str(path) for path in exported.files)} ({size:.1f} MiB)')
    return '\n'.join(lines)
