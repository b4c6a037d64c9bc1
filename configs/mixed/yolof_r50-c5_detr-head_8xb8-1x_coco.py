# YOLOF with a DETR head behind its dilated encoder.
_base_ = 'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    bbox_head=dict(
        _delete_=True,
        type='mmdet_detr.DETRHead',
        num_classes=80,
        transformer=dict(type='mmdet_detr.TransformerNeck', in_channels=512),
    ),
    test_cfg=dict(_delete_=True, max_per_img=100),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4),  # for 64 images a step: 1e-4 for 16, by the square root
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
