# The Faster R-CNN to compare detr_r18_bccd_plain.py with: its backbone, data, optimizer and number of iterations.
_base_ = ['../detr/detr_r18_bccd_plain.py', '../_base_/faster_rcnn_tiny.py']

model = dict(_base_.faster_rcnn_tiny, _delete_=True)
