"""Show what a trained detector can and cannot do: AP, curves, confusions, errors and speed, on one page."""

import argparse
from pathlib import Path

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='evaluate', description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('run', type=Path, help='folder of a training run, or a config')
    parser.add_argument('checkpoint', nargs='?', help='weights; the best or last of the run if not given')
    parser.add_argument('--out', type=Path, help='folder to write; evaluation in the folder of the run if not given')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:1')
    parser.add_argument('--max-images', type=int, help='evaluate that many of the test images')
    args = parser.parse_args()
    from mmdet_detr.cli.evaluate import main  # takes seconds, --help does not wait for it

    main(args)
