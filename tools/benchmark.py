"""Measure detectors side by side: speed by stages, memory, operations, parameters, and AP with checkpoints.

CONFIG is a file, a config that a package brings along, such as mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py, or
an exported model, such as detr.onnx or detr.xml.
All detectors take turns in one process, so that what else the machine does hits all of them alike.
"""

import argparse
from pathlib import Path

MODES = ('train', 'infer', 'both')


def image_size(text: str) -> tuple[int, int]:
    height, width = (int(number) for number in text.split('x'))
    if min(height, width) < 1:
        raise ValueError
    return height, width


image_size.__name__ = 'HEIGHTxWIDTH'  # argparse names the type by it in its errors


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='benchmark', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs of detectors; the first is the reference')
    parser.add_argument('--checkpoint', nargs='+', help="weights, one for each config, '-' for random ones")
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--batch', type=int, nargs='+', default=[1], help='images a batch (default: 1)')
    parser.add_argument(
        '--size',
        type=image_size,
        nargs='+',
        default=[(800, 1066)],
        help='HEIGHTxWIDTH of the input (default: 800x1066)',
    )
    parser.add_argument('--mode', choices=MODES, default='both', help='what to time (default: both)')
    parser.add_argument(
        '--dtype', nargs='+', choices=('float32', 'bfloat16', 'float16'), default=['float32'], help='types of autocast'
    )
    parser.add_argument('--rounds', type=int, default=10, help='timed rounds (default: 10)')
    parser.add_argument('--warmup', type=int, default=2, help='rounds before them (default: 2)')
    parser.add_argument('--objects', type=int, default=8, help='boxes an image in training (default: 8)')
    parser.add_argument('--images', type=Path, help='folder of images to read (default: generated ones)')
    parser.add_argument('--threads', type=int, help="threads of PyTorch (default: PyTorch's)")
    parser.add_argument('--no-memory', action='store_true', help='leave memory out: it takes a process for every row')
    parser.add_argument('--out', type=Path, default=Path('benchmark'), help='folder to write (default: benchmark)')
    args = parser.parse_args()
    if args.checkpoint and len(args.checkpoint) != len(args.configs):
        parser.error(f'{len(args.configs)} configs, but {len(args.checkpoint)} checkpoints')
    if min(*args.batch, args.rounds) < 1 or min(args.warmup, args.objects) < 0:
        parser.error('--batch and --rounds must be at least 1, --warmup and --objects at least 0')
    from mmdet_detr.cli.benchmark import main  # takes seconds, --help does not wait for it

    main(args)
