# RetinaNet on Swin-T with a DETR head on P4 and P5. Swin has a norm for each of its outputs, and a norm that nothing
# reads gets no gradient: so the backbone makes these two levels only.
_base_ = ['mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/mixed.py']

transformer = dict(_base_.detr_transformer, in_channels=256, levels=(0, 1), input_norm=True)
model = dict(
    backbone=dict(out_indices=(2, 3)),
    neck=dict(in_channels=[384, 768], num_outs=2),
    bbox_head=dict(_base_.detr_head, _delete_=True, transformer=transformer),
    test_cfg=_base_.detr_test_cfg,
)
optim_wrapper = dict(_base_.detr_optim_wrapper, _delete_=True)
log_processor = dict(type='mmdet_detr.LogProcessor')
