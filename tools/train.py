"""Train a detector: mmdet's own training script, with mmdet_detr made known to it first."""

from _arguments import check_arguments

if __name__ == '__main__':
    check_arguments('train')
    from mmdet_detr.cli.mmdet_scripts import run_mmdet_tool  # takes seconds, --help does not wait for it

    run_mmdet_tool('train')
