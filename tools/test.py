"""Test a detector: mmdet's own test script, with mmdet_detr made known to it first."""

import sys

from mmdet_detr.cli.mmdet_scripts import run_mmdet_tool

if __name__ == '__main__':
    if '--tta' in sys.argv:
        sys.exit('test.py: --tta is off: it merges detections by NMS, which a set of predictions does not need')
    run_mmdet_tool('test')
