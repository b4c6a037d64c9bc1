"""Work of ``mim run mmdet_detr finetune``."""

import argparse
import io
import sys

from ..own_data.training import TrainingError, finetune, prepare
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Fine-tune on a folder, or only write what a training needs."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # the terminal may lack the letters of a class name
    options = (args.folder, args.weights, args.base, args.epochs, args.batch, args.device, args.out, args.seed)
    with errors_in_one_line('finetune'):
        try:
            if args.prepare:
                prepare(*options)
            else:
                finetune(*options, resume=args.resume)
        except TrainingError as error:  # the tool has said why
            sys.exit(error.code if error.code > 0 else 128 - error.code)
