"""Convert DETR weights between the layouts of facebookresearch/detr, Hugging Face, mmdet and mmdet_detr.

The layout of SRC is recognised. Loading needs no conversion: mmdet_detr reads every layout as it is.
"""

import argparse
import sys
from pathlib import Path

from mmdet_detr.checkpoints.convert import TARGETS, convert_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='convert_checkpoint', description=__doc__)
    parser.add_argument('src', type=Path, help='checkpoint file, or Hugging Face folder')
    parser.add_argument('dst', type=Path, help='file to write; a folder for --to hf')
    parser.add_argument('--to', choices=TARGETS, required=True, help='layout to write')
    parser.add_argument('--config', type=Path, help="for --to hf: the model's config, where SRC does not hold it")
    parser.add_argument('--coco80', action='store_true', help='of 91 + 1 outputs keep those of the 80 COCO classes')
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        print(convert_checkpoint(args.src, args.dst, args.to, args.config, args.coco80, args.force))
    except (ValueError, OSError) as error:
        sys.exit(f'convert_checkpoint: {error}')


if __name__ == '__main__':
    main()
