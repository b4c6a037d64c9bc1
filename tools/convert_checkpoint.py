"""Convert DETR weights between the layouts of facebookresearch/detr, Hugging Face, mmdet and mmdet_detr.

The layout of SRC is recognised. Loading needs no conversion: mmdet_detr reads every layout as it is.
"""

import argparse
from pathlib import Path

LAYOUTS = ('detr', 'hf', 'mmdet3', 'mmdet_detr')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='convert_checkpoint', description=__doc__)
    parser.add_argument('src', type=Path, help='checkpoint file, or Hugging Face folder')
    parser.add_argument('dst', type=Path, help='file to write; a folder for --to hf')
    parser.add_argument('--to', choices=LAYOUTS, required=True, help='layout to write')
    parser.add_argument('--config', type=Path, help="for --to hf: the model's config, if SRC does not hold it")
    parser.add_argument('--coco80', action='store_true', help="of 91 or 250 outputs keep those of COCO's 80 classes")
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    args = parser.parse_args()
    from mmdet_detr.cli.convert_checkpoint import main  # takes seconds, --help does not wait for it

    main(args)
