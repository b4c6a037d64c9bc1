# Panoptic DETR-DC5: PQ 44.6 as published.
_base_ = './detr_r50_panoptic_8x2_25e_coco.py'

model = dict(backbone=dict(type='mmdet_detr.ResNetDC5'))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)  # 8 GPUs x 1 image
