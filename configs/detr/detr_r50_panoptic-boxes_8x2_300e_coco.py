# First stage of panoptic segmentation, as published: boxes of things and stuff. Evaluated on the boxes of things.
_base_ = ['./detr_r50_8x2_150e_coco.py', '../_base_/panoptic_coco.py']

model = dict(bbox_head=dict(num_classes=133))  # 80 things, 53 kinds of stuff

train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='mmdet_detr.LoadPanopticSegments'),
    *_base_.detr_augmentation,
]
test_pipeline = [*_base_.test_pipeline[:2], _base_.test_pipeline[-1]]  # images alone
train_dataloader = dict(dataset=dict(_base_.panoptic_train, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(_base_.panoptic_val, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmdet_detr.CocoMetric')
test_evaluator = val_evaluator

max_epochs = 300
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[200], gamma=0.1),
]
