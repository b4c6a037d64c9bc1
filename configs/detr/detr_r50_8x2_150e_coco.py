# DETR R50 with the official recipe, 150 epochs on 8 GPUs x 2 images.
_base_ = [
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/detr_augmentation.py',
    '../_base_/detr_hooks.py',
    '../_base_/detr_optimizer.py',
]
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    type='mmdet_detr.DETR',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,
    ),
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(3,),
        frozen_stages=1,  # the stem and the first stage
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(type='mmdet_detr.TransformerNeck', in_channels=2048),
    bbox_head=dict(
        type='mmdet_detr.DETRHead',
        num_classes=80,
        loss=dict(
            type='mmdet_detr.BipartiteMatchLoss',
            assigner=dict(
                type='mmdet_detr.HungarianAssigner',
                match_costs=[
                    dict(type='ClassificationCost', weight=1.0),
                    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                    dict(type='IoUCost', iou_mode='giou', weight=2.0),
                ],
            ),
            loss_cls=dict(type='CrossEntropyLoss', loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', eps=1e-8, loss_weight=2.0),
            no_object_weight=0.1,
        ),
    ),
    test_cfg=dict(max_per_img=100),
)

# Data
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    *_base_.detr_augmentation,
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='mmdet_detr.ShortestSideResize', sizes=[800], longest=1333),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=2,
    batch_sampler=None,  # the official recipe draws images at random, not by aspect ratio
    drop_last=True,
    worker_init_fn=dict(type='mmdet_detr.leave_signals_to_parent'),
    sampler=dict(_delete_=True, type='mmdet_detr.SeededSampler', sampler=dict(type='DefaultSampler', shuffle=True)),
    dataset=dict(
        type='mmdet_detr.RobustCocoDataset',
        filter_cfg=dict(_delete_=True, filter_empty_gt=False),  # images without boxes teach the no-object class
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    worker_init_fn=dict(type='mmdet_detr.leave_signals_to_parent'),
    dataset=dict(type='mmdet_detr.RobustCocoDataset', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='mmdet_detr.CocoMetric')

# Schedule
max_epochs = 150
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = _base_.detr_optim_wrapper
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[100], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(type='mmdet_detr.AtomicCheckpointHook'))
log_processor = dict(type='mmdet_detr.LogProcessor')
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images
