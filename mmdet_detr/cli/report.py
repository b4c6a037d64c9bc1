"""Work of ``mim run mmdet_detr report``."""

import argparse
from pathlib import Path

from ..configs import load_config
from ..reports.run import draw_curve, draw_predictions, read_scalars, summarise
from .fail import errors_in_one_line


def main(args: argparse.Namespace) -> None:
    """Draw the pictures of a run and print its AP."""
    with errors_in_one_line('report'):
        configs = sorted(args.work_dir.glob('*.py'))
        if len(configs) != 1:
            raise FileNotFoundError(f'expected one config in {args.work_dir}, found {len(configs)}')
        checkpoint = Path((args.work_dir / 'last_checkpoint').read_text().strip())
        draw_curve(read_scalars(args.work_dir), args.work_dir / 'curve.png')
        draw_predictions(
            load_config(configs[0]),
            args.work_dir / checkpoint.name,
            args.work_dir / 'predictions.png',
            args.images,
            args.columns,
            args.score_thr,
        )
    print(summarise(args.work_dir))
