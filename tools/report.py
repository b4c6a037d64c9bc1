"""Draw the training curve and a sheet of predictions from the folder of a run, and print its AP in one line."""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from mmdet_detr.reports.run import draw_curve, draw_predictions, read_scalars, summarise


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='report', description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, help='folder of the run: its config, checkpoint and logs')
    parser.add_argument('--images', type=int, default=12, help='number of test images on the sheet')
    parser.add_argument('--columns', type=int, default=3, help='images in a row of the sheet')
    parser.add_argument('--score-thr', type=float, default=0.5, help='detections below are not drawn')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        configs = sorted(args.work_dir.glob('*.py'))
        if len(configs) != 1:
            raise FileNotFoundError(f'expected one config in {args.work_dir}, found {len(configs)}')
        checkpoint = Path((args.work_dir / 'last_checkpoint').read_text().strip())
        draw_curve(read_scalars(args.work_dir), args.work_dir / 'curve.png')
        draw_predictions(
            Config.fromfile(configs[0]),
            args.work_dir / checkpoint.name,
            args.work_dir / 'predictions.png',
            args.images,
            args.columns,
            args.score_thr,
        )
    except OSError as error:
        sys.exit(f'report: {error}')
    print(summarise(args.work_dir))


if __name__ == '__main__':
    main()
