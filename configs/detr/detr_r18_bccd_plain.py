# The network of detr_r18_bccd.py without the parts for training only. It trains for an hour on a CPU.
_base_ = './detr_tiny_shapes_plain.py'

model = dict(
    neck=dict(num_queries=50),  # at most 28 cells in an image
    test_cfg=dict(max_per_img=50),
)

# data
data_root = 'data/bccd/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 20, 60), (0, 130, 200), (255, 190, 0)])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='mmdet_detr.ShortestSideResize', sizes=[128, 144, 160])],
            [
                dict(type='mmdet_detr.ShortestSideResize', sizes=[160, 192, 224]),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(112, 176), allow_negative_crop=True),
            ],
        ],
    ),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet_detr.ShortestSideResize', sizes=[144]),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator

# schedule
max_iters = 8000
train_cfg = dict(max_iters=max_iters, val_interval=500)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
warmup = max_iters // 10
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, begin=0, end=warmup, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=warmup, end=max_iters, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(checkpoint=dict(interval=500), logger=dict(interval=50))
