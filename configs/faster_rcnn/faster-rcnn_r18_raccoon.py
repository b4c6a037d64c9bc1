# The Faster R-CNN to compare detr_r18_raccoon.py with: its backbone and images.
_base_ = ['../detr/detr_r18_bccd_plain.py', '../_base_/faster_rcnn_tiny.py', '../_base_/raccoon.py']

tiny = _base_.faster_rcnn_tiny
roi_head = dict(tiny.roi_head, bbox_head=dict(tiny.roi_head.bbox_head, num_classes=1))
model = dict(tiny, roi_head=roi_head, _delete_=True)

train_dataloader = _base_.raccoon_train
val_dataloader = _base_.raccoon_val
test_dataloader = val_dataloader
val_evaluator = _base_.raccoon_evaluator
test_evaluator = val_evaluator
