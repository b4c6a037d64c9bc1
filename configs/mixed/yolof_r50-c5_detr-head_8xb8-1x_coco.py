# YOLOF with a DETR head behind its dilated encoder.
_base_ = ['mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', '../_base_/mixed.py']

transformer = dict(_base_.detr_transformer, in_channels=512)
model = dict(
    bbox_head=dict(_base_.detr_head, _delete_=True, transformer=transformer),
    test_cfg=_base_.detr_test_cfg,
)
optim_wrapper = dict(
    _base_.detr_optim_wrapper,
    _delete_=True,
    optimizer=dict(_base_.detr_optim_wrapper.optimizer, lr=2e-4),  # 64 images a step: 1e-4 x sqrt(64 / 16)
)
log_processor = dict(type='mmdet_detr.LogProcessor')
