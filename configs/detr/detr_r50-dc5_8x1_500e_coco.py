# DETR-DC5: the last stage of the backbone has a dilation of 2 instead of a stride of 2.
_base_ = './detr_r50_8x2_500e_coco.py'

model = dict(backbone=dict(type='mmdet_detr.ResNetDC5'))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)  # 8 GPUs x 1 image
