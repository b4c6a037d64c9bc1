# RetinaNet on PVTv2 with a DETR head. Its FPN makes only the level that the head reads: P5.
_base_ = ['mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco.py', '../_base_/mixed.py']

transformer = dict(_base_.detr_transformer, in_channels=256, input_norm=True)
model = dict(
    neck=dict(start_level=3, num_outs=1),
    bbox_head=dict(_base_.detr_head, _delete_=True, transformer=transformer),
    test_cfg=_base_.detr_test_cfg,
)
optim_wrapper = dict(_base_.detr_optim_wrapper, _delete_=True)
log_processor = dict(type='mmdet_detr.LogProcessor')
