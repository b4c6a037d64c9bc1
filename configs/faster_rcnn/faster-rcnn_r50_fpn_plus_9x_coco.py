# Faster R-CNN-FPN+ of the paper's table 1: 42.0 AP there (Detectron2).
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/faster_rcnn_plus.py']

model = dict(roi_head=_base_.plus_roi_head)
train_dataloader = dict(dataset=dict(pipeline=_base_.plus_train_pipeline))
train_cfg = dict(max_epochs=_base_.plus_epochs)
param_scheduler = _base_.plus_param_scheduler
log_processor = dict(type='mmdet_detr.LogProcessor')
