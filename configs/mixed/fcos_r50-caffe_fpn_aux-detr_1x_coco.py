# FCOS, trained with a DETR head on P5 beside its own.
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/mixed.py']

transformer = dict(_base_.detr_transformer, in_channels=256, levels=2, input_norm=True)
model = dict(
    _delete_=True,
    type='mmdet_detr.AuxiliaryHeadDetector',
    detector=_base_.model,
    aux_head=dict(_base_.detr_head, transformer=transformer),
    predict_by='detector',  # or 'aux_head'
)
optim_wrapper = dict(_base_.detr_optim_wrapper, _delete_=True)
log_processor = dict(type='mmdet_detr.LogProcessor')
