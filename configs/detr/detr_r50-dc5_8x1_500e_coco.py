# DETR-DC5: the last stage is dilated by 2 instead of strided, 8 GPUs x 1 image.
_base_ = './detr_r50_8x2_500e_coco.py'

model = dict(backbone=dict(type='mmdet_detr.ResNetDC5'))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)  # 8 GPUs x 1 image
