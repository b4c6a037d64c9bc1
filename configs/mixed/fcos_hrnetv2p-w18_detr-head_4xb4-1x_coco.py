# FCOS on HRNet with a DETR head. HRFPN makes all levels of one map; BFP gathers them again at stride 32, so that the
# transformer reads something of each.
_base_ = 'mmdet::hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    neck=[
        {{_base_.model.neck}},
        dict(type='BFP', in_channels=256, num_levels=5, refine_level=2),
    ],
    bbox_head=dict(
        _delete_=True,
        type='mmdet_detr.DETRHead',
        num_classes=80,
        transformer=dict(type='mmdet_detr.TransformerNeck', in_channels=256, levels=2, input_norm=True),
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
