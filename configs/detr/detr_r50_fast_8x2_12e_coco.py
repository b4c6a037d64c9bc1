# DETR R50 with the parts for training only, 12 epochs on 8 GPUs x 2 images. Not trained yet: docs/convergence.md says
# what to expect, and why.
_base_ = ['./detr_r50_8x2_150e_coco.py', '../_base_/detr_fast.py']

model = dict(bbox_head=_base_.fast_head)

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[11], gamma=0.1),
]
