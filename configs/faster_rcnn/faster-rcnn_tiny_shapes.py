# The Faster R-CNN to compare detr_tiny_shapes.py with: its backbone, data, optimizer and number of iterations.
_base_ = ['../detr/detr_tiny_shapes.py', '../_base_/faster_rcnn_tiny.py']
model = {{_base_.faster_rcnn_tiny}}

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),  # the size that they have; writes the scale_factor, which the head asks for
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
