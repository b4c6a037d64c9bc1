"""Write a page of a run: curve, predictions, errors, attention and config; and print its AP in one line."""

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
    parser.add_argument('--evaluated', type=int, default=500, help='test images to look for errors in; 0: none')
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: a GPU if there is one)')
    args = parser.parse_args()
    from mmdet_detr.cli.report import main  # takes seconds, --help does not wait for it

    main(args)
