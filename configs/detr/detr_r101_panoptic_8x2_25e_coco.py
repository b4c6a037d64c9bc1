# Panoptic DETR with the deeper backbone: PQ 45.1 as published.
_base_ = './detr_r50_panoptic_8x2_25e_coco.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))
