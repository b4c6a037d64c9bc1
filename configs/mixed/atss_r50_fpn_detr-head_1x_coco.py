# ATSS with a DETR head. Its FPN makes only the levels that the head reads: P5, P6 and P7.
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/mixed.py']

transformer = dict(_base_.detr_transformer, in_channels=256, levels=(0, 1, 2), input_norm=True)
model = dict(
    neck=dict(start_level=3, num_outs=3),
    bbox_head=dict(_base_.detr_head, _delete_=True, transformer=transformer),
    test_cfg=_base_.detr_test_cfg,
)
optim_wrapper = dict(_base_.detr_optim_wrapper, _delete_=True)
log_processor = dict(type='mmdet_detr.LogProcessor')
