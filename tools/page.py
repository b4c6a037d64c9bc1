"""Serve a page on which detectors are tried: drop an image, move the threshold, click a detection to see its attention.

Each CHECKPOINT is the folder of a run or a checkpoint; several stand side by side. The page is for this machine alone,
unless --host says otherwise, and loads nothing of others.
"""

import argparse


def share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def port(text: str) -> int:
    if not 0 < int(text) < 65536:
        raise ValueError
    return int(text)


share.__name__ = 'number between 0 and 1'  # argparse names the types by these in its errors
port.__name__ = 'port between 1 and 65535'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='page', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', nargs='+', help='folder of a run, or checkpoint')
    parser.add_argument('--config', help='config of the checkpoints; by default the one inside them')
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0 lets other machines in (default: 127.0.0.1)')
    parser.add_argument('--port', type=port, help='default: the first free one from 7860 on')
    parser.add_argument('--score-thr', type=share, default=0.5, help='where the slider stands at first (default: 0.5)')
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: a GPU if there is one)')
    args = parser.parse_args()
    from mmdet_detr.cli.page import main  # takes seconds, --help does not wait for it

    main(args)
