# DETR with a small backbone; no weights are published for it.
_base_ = './detr_r50_8x2_500e_coco.py'

model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=512),
)
