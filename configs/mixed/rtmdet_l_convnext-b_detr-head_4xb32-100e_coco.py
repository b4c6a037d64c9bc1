# RTMDet on mmpretrain's ConvNeXt with a DETR head on C5 that replaces neck and head. The schedule is that of RTMDet.
_base_ = [
    'mmdet::rtmdet/rtmdet_l_convnext_b_4xb32-100e_coco.py',
    '../_base_/detr_head.py',
    '../_base_/detr_optimizer.py',
]
custom_imports = dict(imports=['mmpretrain.models', 'mmdet_detr'], allow_failed_imports=False)

transformer = dict(_base_.detr_transformer, in_channels=1024)
model = dict(
    backbone=dict(out_indices=[3]),
    neck=None,
    bbox_head=dict(_base_.detr_head, _delete_=True, transformer=transformer),
    test_cfg=_base_.detr_test_cfg,
)
base_lr = 2.8e-4  # 128 images a step: 1e-4 x sqrt(128 / 16)
optim_wrapper = dict(
    _base_.detr_optim_wrapper,
    _delete_=True,
    optimizer=dict(_base_.detr_optim_wrapper.optimizer, lr=base_lr),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.05,  # RTMDet's eta_min is above the learning rate of the backbone
        begin=50,
        end=100,
        T_max=50,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=128)
log_processor = dict(type='mmdet_detr.LogProcessor')
