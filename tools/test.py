"""Test a detector: mmdet's own test script, with mmdet_detr made known to it first."""

import sys

from _arguments import check_arguments, end

if __name__ == '__main__':
    if '--tta' in sys.argv:
        end('test', '--tta is off: it merges detections by NMS, which a set of predictions does not need')
    check_arguments('test')
    from mmdet_detr.cli.mmdet_scripts import run_mmdet_tool  # takes seconds, --help does not wait for it

    run_mmdet_tool('test')
