"""Show what a DETR looks at in an image: attention of decoder, encoder and mask head, boxes of the layers, on one page.

Layers and heads count from 1. --points, --heads and --portraits take what follows, so they stand behind the image:
attention work_dirs/demo photo.jpg --heads --points 120,80 300,200
"""

import argparse
from pathlib import Path


def share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def point(text: str) -> tuple[float, float]:
    x, y = text.split(',')
    return float(x), float(y)


share.__name__ = 'number between 0 and 1'  # argparse names the types by these in its errors
point.__name__ = 'x,y'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='attention', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', metavar='RUN', help='folder of a run, checkpoint, or config')
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', nargs='?', help='weights (default: best or last of the run)'
    )
    parser.add_argument('image', metavar='IMAGE', help='file or address of an image')
    parser.add_argument('--layer', type=int, help='decoder layer (default: the last)')
    parser.add_argument('--encoder-layer', type=int, metavar='LAYER', help='encoder layer (default: the last)')
    parser.add_argument('--heads', type=int, nargs='*', metavar='N', help='draw single heads, too (without N: all)')
    parser.add_argument('--score-thr', type=share, default=0.5, help='detections below are left out (default: 0.5)')
    parser.add_argument(
        '--points', type=point, nargs='+', metavar='x,y', help='for the encoder, in pixels (default: centres of boxes)'
    )
    parser.add_argument(
        '--portraits',
        nargs='?',
        const='',
        metavar='COCO.json',
        help='show where each query finds objects, in the images of a COCO file (default: test data of the config)',
    )
    parser.add_argument('--images', type=Path, metavar='FOLDER', help='of the images of COCO.json')
    parser.add_argument('--max-images', type=int, metavar='N', help='that many of them, spread (default: all)')
    parser.add_argument('--out', type=Path, help='folder to write (default: attention in that of the run)')
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: a GPU if there is one)')
    args = parser.parse_intermixed_args()
    from mmdet_detr.cli.attention import main  # takes seconds, --help does not wait for it

    main(args)
