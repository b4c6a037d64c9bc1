# FCOS, trained with a DETR head beside its own, on P5.
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    type='mmdet_detr.AuxiliaryHeadDetector',
    detector={{_base_.model}},
    aux_head=dict(
        type='mmdet_detr.DETRHead',
        num_classes=80,
        transformer=dict(type='mmdet_detr.TransformerNeck', in_channels=256, levels=2, input_norm=True),
    ),
    predict_by='detector',  # or 'aux_head'
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
