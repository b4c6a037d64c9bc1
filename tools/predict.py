"""Find objects in images, a video or from a camera: pictures with boxes, detections.json and detections.csv.

MODEL is the folder of a run, a checkpoint, or a config with --checkpoint. INPUT is an image, a folder of images, a
pattern such as 'photos/**/*.jpg' (in quotes), a video, an address of an image, or the number of a camera.
"""

import argparse
from pathlib import Path


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


positive.__name__ = 'number of at least 1'  # argparse names the types by these in its errors
share.__name__ = 'number between 0 and 1'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='predict', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', metavar='MODEL', help='folder of a run, checkpoint, or config')
    parser.add_argument('input', metavar='INPUT', help='images, a video or a camera; a camera is stopped by Ctrl-C')
    parser.add_argument('--checkpoint', help='weights; by default the best or last ones of the run')
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write (default: predictions)')
    parser.add_argument('--score-thr', type=share, default=0.5, help='detections below are left out (default: 0.5)')
    parser.add_argument('--batch', type=positive, default=8, help='images at once, at most (default: 8)')
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: a GPU if there is one)')
    parser.add_argument('--tiles', type=positive, metavar='SIZE', help='look at large images in tiles of SIZE pixels')
    args = parser.parse_args()
    from mmdet_detr.cli.predict import main  # takes seconds, --help does not wait for it

    main(args)
