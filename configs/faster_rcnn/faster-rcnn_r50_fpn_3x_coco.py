# Faster R-CNN-FPN of the paper's table 1: 40.2 AP there (Detectron2), 40.3 in mmdet.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco.py'
log_processor = dict(type='mmdet_detr.LogProcessor')
