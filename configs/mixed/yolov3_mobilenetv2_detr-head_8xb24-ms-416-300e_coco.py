# YOLOv3 on MobileNetV2 with a DETR head on C5 that replaces neck and head.
_base_ = ['mmdet::yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco.py', '../_base_/mixed.py']

transformer = dict(_base_.detr_transformer, in_channels=1280)
model = dict(
    backbone=dict(out_indices=(7,)),
    neck=None,
    bbox_head=dict(_base_.detr_head, _delete_=True, transformer=transformer),
    test_cfg=_base_.detr_test_cfg,
)
optim_wrapper = dict(
    _base_.detr_optim_wrapper,
    _delete_=True,
    optimizer=dict(_base_.detr_optim_wrapper.optimizer, lr=3.5e-4),  # 192 images a step: 1e-4 x sqrt(192 / 16)
)
log_processor = dict(type='mmdet_detr.LogProcessor')
