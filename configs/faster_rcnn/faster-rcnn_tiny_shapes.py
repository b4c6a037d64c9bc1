# The Faster R-CNN to compare detr_tiny_shapes_plain.py with: its backbone, data, optimizer and number of iterations.
_base_ = ['../detr/detr_tiny_shapes_plain.py', '../_base_/faster_rcnn_tiny.py', '../_base_/shapes_test_pipeline.py']

model = dict(_base_.faster_rcnn_tiny, _delete_=True)
test_pipeline = _base_.shapes_test_pipeline
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
