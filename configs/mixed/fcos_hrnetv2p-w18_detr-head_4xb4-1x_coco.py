# FCOS on HRNet with a DETR head. HRFPN makes all levels from one map. BFP gathers them at stride 32, so that every
# level has a part in what the head reads.
_base_ = ['mmdet::hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py', '../_base_/mixed.py']

transformer = dict(_base_.detr_transformer, in_channels=256, levels=2, input_norm=True)
model = dict(
    neck=[_base_.model.neck, dict(type='BFP', in_channels=256, num_levels=5, refine_level=2)],
    bbox_head=dict(_base_.detr_head, _delete_=True, transformer=transformer),
    test_cfg=_base_.detr_test_cfg,
)
optim_wrapper = dict(_base_.detr_optim_wrapper, _delete_=True)
log_processor = dict(type='mmdet_detr.LogProcessor')
