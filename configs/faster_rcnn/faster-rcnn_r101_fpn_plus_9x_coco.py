# Faster R-CNN-R101-FPN+ of the paper's table 1, 44.0 AP there: as the R50-FPN+, with the deeper backbone.
_base_ = './faster-rcnn_r50_fpn_plus_9x_coco.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')))
