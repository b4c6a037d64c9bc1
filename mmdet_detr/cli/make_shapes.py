"""Work of ``mim run mmdet_detr make_shapes``."""

import argparse

from rich.progress import track

from ..datasets.shapes import SPLITS, ShapesOptions, write_shapes
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Write the data set that the arguments of ``tools/make_shapes.py`` describe."""
    with errors_in_one_line('make_shapes', ValueError):
        options = ShapesOptions(args.image_size, args.min_objects, args.max_objects, args.seed)
        for split, count in zip(SPLITS, (args.train, args.val), strict=True):
            progress = write_shapes(args.out, split, count, options)
            for _ in track(progress, description=f'{args.out}/{split}', total=count):
                pass
