# Photographs of raccoons (docs/data.md), for a config that inherits from detr_r18_bccd.py or its peers as well.
raccoon_root = 'data/raccoon/'
raccoon_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmdet_detr.ShortestSideResize', sizes=[128, 136, 144, 152, 160], longest=240),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
raccoon_test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet_detr.ShortestSideResize', sizes=[144], longest=240),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
raccoon = dict(data_root=raccoon_root, metainfo=dict(classes=('raccoon',), palette=[(220, 20, 60)]))
raccoon_train = dict(dataset=dict(raccoon, pipeline=raccoon_pipeline))
raccoon_val = dict(dataset=dict(raccoon, pipeline=raccoon_test_pipeline))
raccoon_evaluator = dict(ann_file=raccoon_root + 'val.json')
