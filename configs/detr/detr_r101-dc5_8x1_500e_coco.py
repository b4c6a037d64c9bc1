# DETR-DC5 with the deeper backbone: 44.9 AP as published.
_base_ = './detr_r50-dc5_8x1_500e_coco.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))
