# Faster R-CNN-DC5 of the paper's table 1: 39.0 AP there (Detectron2).
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_ms-3x_coco.py'
# mmdet's config sets the epochs and the milestones, but leaves the end of the schedule at 12 epochs.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[28, 34], gamma=0.1),
]
log_processor = dict(type='mmdet_detr.LogProcessor')
