# FCOS with a DETR head on P5, the one level that its FPN is left to make.
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    neck=dict(start_level=3, num_outs=1),
    bbox_head=dict(
        _delete_=True,
        type='mmdet_detr.DETRHead',
        num_classes=80,
        transformer=dict(type='mmdet_detr.TransformerNeck', in_channels=256, input_norm=True),
    ),
    test_cfg=dict(_delete_=True, max_per_img=100),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
