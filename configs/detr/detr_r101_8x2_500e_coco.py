# DETR with the deeper backbone: 43.5 AP as published.
_base_ = './detr_r50_8x2_500e_coco.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))
