# The paper's training augmentation (section A.4), for detectors other than DETR.
detr_sizes = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
detr_augmentation = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='mmdet_detr.ShortestSideResize', sizes=detr_sizes, longest=1333)],
            [
                dict(type='mmdet_detr.ShortestSideResize', sizes=[400, 500, 600], longest=None),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True,
                ),
                dict(type='mmdet_detr.ShortestSideResize', sizes=detr_sizes, longest=1333),
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
