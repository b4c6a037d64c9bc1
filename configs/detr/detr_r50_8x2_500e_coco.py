# DETR R50 at the 500 epochs of the paper's main result; the learning rate drops after 400.
_base_ = './detr_r50_8x2_150e_coco.py'

max_epochs = 500
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[400], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
