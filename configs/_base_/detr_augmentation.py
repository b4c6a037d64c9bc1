# The paper's training augmentation (section A.4), to be put behind LoadImageFromFile and LoadAnnotations. Half of the
# images are resized. The other half are resized without a bound on the longer side, cropped, and resized again.
detr_resize = dict(
    type='mmdet_detr.ShortestSideResize',
    sizes=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
    longest=1333,
)
detr_augmentation = [
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [detr_resize],
            [
                dict(type='mmdet_detr.ShortestSideResize', sizes=[400, 500, 600], longest=None),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True,  # the official recipe keeps crops without boxes
                ),
                detr_resize,
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
