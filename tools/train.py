"""Train a detector: mmdet's own training script, with mmdet_detr made known to it first."""

from mmdet_detr.cli.mmdet_scripts import run_mmdet_tool

if __name__ == '__main__':
    run_mmdet_tool('train')
