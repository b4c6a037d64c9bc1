# mmdet's own DETR to compare detr_r18_bccd_plain.py with: its widths, data, optimizer and number of iterations.
_base_ = ['../detr/detr_r18_bccd_plain.py', '../_base_/mmdet_detr_tiny.py']

ours = _base_.model
model = dict(
    _base_.mmdet_detr_tiny,
    _delete_=True,
    num_queries=ours.neck.num_queries,
    data_preprocessor=ours.data_preprocessor,
    backbone=ours.backbone,
    test_cfg=ours.test_cfg,
)
