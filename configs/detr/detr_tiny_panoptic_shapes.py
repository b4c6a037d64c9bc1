# Panoptic segmentation on the generated images: boxes and masks in one training, in minutes on two CPU cores.
# Data: mim run mmdet_detr make_shapes data/shapes
_base_ = './detr_tiny_shapes.py'

num_queries = 16  # three things and up to three regions in an image
model = dict(
    backbone=dict(out_indices=(0, 1)),
    neck=dict(num_queries=num_queries),
    bbox_head=dict(num_classes=7),
    mask_head=dict(
        type='mmdet_detr.MaskHead',
        in_channels=(32,),
        embed_dims=64,
        num_things_classes=3,
        loss=dict(
            type='mmdet_detr.MaskLoss',  # heavier than the paper's, as the parts for training only are
            loss_mask=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=20.0),
            loss_dice=dict(type='DiceLoss', use_sigmoid=True, naive_dice=True, eps=1.0, loss_weight=5.0),
        ),
    ),
    test_cfg=dict(max_per_img=num_queries, panoptic=dict(score_thr=0.85)),
)

things = ('circle', 'square', 'triangle')
stuff = ('sky', 'grass', 'sand', 'water')
metainfo = dict(
    classes=things + stuff,
    thing_classes=things,
    stuff_classes=stuff,
    palette=[(220, 20, 60), (150, 60, 200), (255, 190, 0)]  # no colour of a region
    + [(125, 165, 215), (85, 135, 65), (200, 175, 125), (60, 95, 135)],
)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='mmdet_detr.LoadPanopticSegments', box_from='json'),
    *_base_.train_pipeline[2:],
]
test_pipeline = [_base_.test_pipeline[0], _base_.test_pipeline[-1]]  # images alone
train_dataloader = dict(
    dataset=dict(
        type='mmdet_detr.PanopticDataset',
        metainfo=metainfo,
        ann_file='annotations/panoptic_train.json',
        data_prefix=dict(img='train/', seg='annotations/panoptic_train/'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmdet_detr.PanopticDataset',
        metainfo=metainfo,
        ann_file='annotations/panoptic_val.json',
        data_prefix=dict(img='val/', seg='annotations/panoptic_val/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='mmdet_detr.PanopticMetric', ann_file='data/shapes/annotations/panoptic_val.json'),
    dict(
        type='mmdet_detr.CocoMetric',
        ann_file='data/shapes/annotations/instances_val.json',
        metric=['bbox', 'segm'],
    ),
]
test_evaluator = val_evaluator
visualizer = dict(type='mmdet_detr.PanopticVisualizer')

# schedule
max_iters = 2600
train_cfg = dict(max_iters=max_iters, val_interval=650)
warmup = max_iters // 10
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, begin=0, end=warmup, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=warmup, end=max_iters, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=650))
