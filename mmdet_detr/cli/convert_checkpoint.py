"""Work of ``mim run mmdet_detr convert_checkpoint``."""

import argparse

from ..checkpoints.convert import convert_checkpoint
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Convert a checkpoint and say what was written."""
    with errors_in_one_line('convert_checkpoint'):
        print(convert_checkpoint(args.src, args.dst, args.to, args.config, args.coco80, args.force))
