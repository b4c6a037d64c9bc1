# DETR R50 with the parts for training only, 50 epochs on 8 GPUs x 2 images. Not trained yet: docs/convergence.md says
# what to expect, and why.
_base_ = './detr_r50_fast_8x2_12e_coco.py'

max_epochs = 50
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[40], gamma=0.1),
]
