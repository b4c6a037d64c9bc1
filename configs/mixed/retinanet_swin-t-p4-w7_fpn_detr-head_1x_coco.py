# RetinaNet on Swin-T with a DETR head on P4 and P5; Swin has a norm for every output, so it makes these two only.
_base_ = 'mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    backbone=dict(out_indices=(2, 3)),
    neck=dict(in_channels=[384, 768], num_outs=2),
    bbox_head=dict(
        _delete_=True,
        type='mmdet_detr.DETRHead',
        num_classes=80,
        transformer=dict(type='mmdet_detr.TransformerNeck', in_channels=256, levels=(0, 1), input_norm=True),
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
