# DETR R18 on BCCD: 205 + 87 photographs of blood cells, 640x480, three classes, COCO format in data/bccd.
# Small enough for two CPU cores: images of 192 pixels, features of stride 16, a small transformer without dropout
# (dropout inside attention keeps PyTorch from its fused kernel on the CPU).
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

channels = 128
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
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(type='BN'),
        norm_eval=False,
        zero_init_residual=False,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    neck=dict(
        type='mmdet_detr.TransformerNeck',
        in_channels=256,
        embed_dims=channels,
        num_queries=50,  # at most 28 cells in an image
        num_heads=8,
        num_encoder_layers=1,
        num_decoder_layers=3,
        feedforward_channels=4 * channels,
        dropout=0.0,
    ),
    bbox_head=dict(type='mmdet_detr.DETRHead', num_classes=3, embed_dims=channels),
    test_cfg=dict(max_per_img=50),
)

# data
data_root = 'data/bccd/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 20, 60), (0, 130, 200), (255, 190, 0)])
sizes = [160, 176, 192, 208, 224]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='mmdet_detr.ShortestSideResize', sizes=sizes)],
            [
                dict(type='mmdet_detr.ShortestSideResize', sizes=[208, 256, 304]),
                dict(
                    type='RandomCrop', crop_type='absolute_range', crop_size=(144, 224), allow_negative_crop=True
                ),
            ],
        ],
    ),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet_detr.ShortestSideResize', sizes=[192]),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=data_root + 'val.json', metric='bbox')
test_evaluator = val_evaluator

# schedule
max_iters = 7000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = dict(type='OneCycleLR', eta_max=4e-4, total_steps=max_iters, pct_start=0.1, by_epoch=False)

# runtime
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=1),
    logger=dict(type='LoggerHook', interval=50),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
