"""Work of ``mim run mmdet_detr report``."""

import argparse
from pathlib import Path

from ..configs import load_config
from ..reports.run import draw_curve, draw_predictions, read_scalars, summarise
from ..runs import find_config
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Draw the pictures of a run and print its AP."""
    with errors_in_one_line('report'):
        folder = args.work_dir
        config = load_config(find_config(folder))
        checkpoint = folder / Path((folder / 'last_checkpoint').read_text().strip()).name
        draw_curve(read_scalars(folder), folder / 'curve.png')
        draw_predictions(config, checkpoint, folder / 'predictions.png', args.images, args.columns, args.score_thr)
    print(summarise(folder))
