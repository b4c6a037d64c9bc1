# DETR, trained with the dense head of FCOS beside its own, on an FPN that only that head reads.
_base_ = '../detr/detr_r50_8x2_150e_coco.py'

detector = _base_.model
detector.backbone.out_indices = (1, 2, 3)  # all three for the FPN; DETR reads the last

model = dict(
    _delete_=True,
    type='mmdet_detr.AuxiliaryHeadDetector',
    detector=detector,
    aux_neck=dict(
        type='FPN',
        in_channels=[512, 1024, 2048],
        out_channels=256,
        add_extra_convs='on_output',
        num_outs=5,
        relu_before_extra_convs=True,
    ),
    aux_head=dict(
        type='FCOSHead',
        num_classes=80,
        in_channels=256,
        norm_on_bbox=True,
        centerness_on_reg=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        test_cfg=dict(nms_pre=1000, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100),
    ),
    predict_by='detector',  # or 'aux_head'
)
