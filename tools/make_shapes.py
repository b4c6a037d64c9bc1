"""Write the generated `shapes` data set: COCO-format folders with boxes, polygons and panoptic segmentation."""

import argparse
from pathlib import Path

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='make_shapes', description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('out', type=Path, nargs='?', default=Path('data/shapes'), help='folder to write')
    parser.add_argument('--train', type=int, default=8000, help='number of training images')
    parser.add_argument('--val', type=int, default=500, help='number of held-out images')
    parser.add_argument('--image-size', type=int, default=64, help='side of the images in pixels')
    parser.add_argument('--min-objects', type=int, default=1, help='fewest objects in an image')
    parser.add_argument('--max-objects', type=int, default=3, help='most objects in an image')
    parser.add_argument('--seed', type=int, default=0, help='the same seed gives the same files')
    args = parser.parse_args()
    from mmdet_detr.cli.make_shapes import main  # takes seconds, --help does not wait for it

    main(args)
