"""Fine-tune a detector on a folder of pictures with boxes: one command from the folder to the trained model.

FOLDER holds COCO files (also of Roboflow, CVAT and Label Studio), YOLO labels or Pascal VOC files; it is recognised by
its files, and nothing is written into it. The run has a config that `mim train mmdet_detr` takes, annotation files, a
check of the data, the best checkpoint, a curve and a sheet of predictions.
"""

import argparse
from pathlib import Path

if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        prog='finetune', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path)
    parser.add_argument('--weights', help='file or address to start from, or none (default: published ones)')
    parser.add_argument('--base', help='config to start from (default: configs/detr/detr_r50_finetune.py)')
    parser.add_argument('--epochs', type=int, help="default: the base's, or as many as make 1000 steps")
    parser.add_argument('--batch', type=int, help="images a step (default: the base's, fewer with few images)")
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if there is a GPU')
    parser.add_argument('--out', type=Path, help='folder of the run (default: work_dirs/finetune_NAME)')
    parser.add_argument('--seed', type=int, default=0, help='of the split, where the folder has none (default: 0)')
    parser.add_argument('--resume', action='store_true', help='continue the run in --out that was stopped')
    parser.add_argument('--prepare', action='store_true', help='write config and annotations, and do not train')
    args = parser.parse_args()
    from mmdet_detr.cli.finetune import main  # takes seconds, --help does not wait for it

    main(args)
