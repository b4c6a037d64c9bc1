"""Show what a trained detector can and cannot do: AP, curves, confusions, errors and speed, on one page."""

import argparse
from pathlib import Path

if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='evaluate', description=__doc__)
    parser.add_argument('run', type=Path, help='folder of a training run, or a config')
    parser.add_argument('checkpoint', nargs='?', help='weights (default: the best or last of the run)')
    parser.add_argument('--out', type=Path, help='folder to write (default: evaluation in that of the run)')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: cuda if there is any)')
    parser.add_argument('--max-images', type=int, help='evaluate that many of the test images (default: all)')
    args = parser.parse_args()
    from mmdet_detr.cli.evaluate import main  # takes seconds, --help does not wait for it

    main(args)
