# The network of the demonstration (detr_tiny_shapes.py) without the parts for training only.
_base_ = ['mmdet::_base_/default_runtime.py', '../_base_/detr_hooks.py']
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

channels = 64
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
        depth=18,
        base_channels=32,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
        norm_cfg=dict(type='BN'),  # batch norms train, because no pretrained weights are loaded
        norm_eval=False,
        zero_init_residual=False,
    ),
    neck=dict(
        type='mmdet_detr.TransformerNeck',
        in_channels=64,
        embed_dims=channels,
        num_queries=10,
        num_heads=4,
        num_encoder_layers=1,
        num_decoder_layers=3,
        feedforward_channels=4 * channels,
        dropout=0.0,
    ),
    bbox_head=dict(type='mmdet_detr.DETRHead', num_classes=3, embed_dims=channels),
    test_cfg=dict(max_per_img=10),
)

# data
data_root = 'data/shapes/'
metainfo = dict(classes=('circle', 'square', 'triangle'), palette=[(220, 20, 60), (0, 130, 200), (255, 190, 0)])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # to decode such a batch takes less time than to hand it over from another process
    persistent_workers=False,
    worker_init_fn=dict(type='mmdet_detr.leave_signals_to_parent'),
    sampler=dict(type='mmdet_detr.SeededSampler', sampler=dict(type='InfiniteSampler', shuffle=True)),
    dataset=dict(
        type='mmdet_detr.RobustCocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    worker_init_fn=dict(type='mmdet_detr.leave_signals_to_parent'),
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdet_detr.RobustCocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdet_detr.CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric='bbox'
)
test_evaluator = val_evaluator

# schedule
max_iters = 3800
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=760)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
warmup = max_iters // 10
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, begin=0, end=warmup, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=warmup, end=max_iters, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=32)

# runtime
default_hooks = dict(
    checkpoint=dict(type='mmdet_detr.AtomicCheckpointHook', by_epoch=False, interval=760, max_keep_ckpts=1),
    logger=dict(type='LoggerHook', interval=100),
)
log_processor = dict(type='mmdet_detr.LogProcessor', window_size=100, by_epoch=False)
