"""Draw the training curve and a sheet of predictions from the folder of a run, and print its AP in one line."""

import argparse
from pathlib import Path

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='report', description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, help='folder of the run: its config, checkpoint and logs')
    parser.add_argument('--images', type=int, default=12, help='number of test images on the sheet')
    parser.add_argument('--columns', type=int, default=3, help='images in a row of the sheet')
    parser.add_argument('--score-thr', type=float, default=0.5, help='detections below are not drawn')
    args = parser.parse_args()
    from mmdet_detr.cli.report import main  # takes seconds, --help does not wait for it

    main(args)
