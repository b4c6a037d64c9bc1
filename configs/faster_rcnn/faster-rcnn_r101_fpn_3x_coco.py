# Faster R-CNN-R101-FPN of the paper's table 1: 42.0 AP there (Detectron2).
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r101_fpn_ms-3x_coco.py'
log_processor = dict(type='mmdet_detr.LogProcessor')
