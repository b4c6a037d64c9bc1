# mmdet's own DETR to compare detr_tiny_shapes_plain.py with: its widths, data, optimizer and number of iterations.
_base_ = ['../detr/detr_tiny_shapes_plain.py', '../_base_/mmdet_detr_tiny.py', '../_base_/shapes_test_pipeline.py']

ours = _base_.model
model = dict(
    _base_.mmdet_detr_tiny,
    _delete_=True,
    num_queries=ours.neck.num_queries,
    data_preprocessor=ours.data_preprocessor,
    backbone=ours.backbone,
    test_cfg=ours.test_cfg,
)
test_pipeline = _base_.shapes_test_pipeline
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
