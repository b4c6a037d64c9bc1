# Boxes and masks of panoptic segmentation in one training, at the schedule of the boxes. Not the published recipe.
_base_ = './detr_r50_panoptic_8x2_25e_coco.py'

model = dict(freeze_detector=False)

max_epochs = 300
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[200], gamma=0.1),
]
