# Instance segmentation: masks of COCO's 80 things on the frozen boxes of any published DETR R50, which load_from gives.
_base_ = ['./detr_r50_8x2_150e_coco.py', '../_base_/panoptic_coco.py']

model = dict(
    backbone=dict(out_indices=(0, 1, 2, 3)),
    mask_head=dict(type='mmdet_detr.MaskHead', in_channels=(256, 512, 1024), num_things_classes=None),
    freeze_detector=True,
)
train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    *_base_.detr_augmentation,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(type='mmdet_detr.CocoMetric', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
visualizer = dict(type='mmdet_detr.PanopticVisualizer')

train_cfg = dict(max_epochs=25, val_interval=1)
param_scheduler = _base_.mask_schedule
