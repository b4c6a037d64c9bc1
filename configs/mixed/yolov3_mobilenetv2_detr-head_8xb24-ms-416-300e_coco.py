# YOLOv3 on MobileNetV2 with a DETR head in the place of neck and head.
_base_ = 'mmdet::yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    backbone=dict(out_indices=(7,)),
    neck=None,
    bbox_head=dict(
        _delete_=True,
        type='mmdet_detr.DETRHead',
        num_classes=80,
        transformer=dict(type='mmdet_detr.TransformerNeck', in_channels=1280),
    ),
    test_cfg=dict(_delete_=True, max_per_img=100),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3.5e-4, weight_decay=1e-4),  # for 192 images a step: 1e-4 for 16, by the square root
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
