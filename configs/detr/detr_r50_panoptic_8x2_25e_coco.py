# Second stage of panoptic segmentation, as published: masks on frozen boxes, which load_from gives. Also the config to
# test the published weights with (PQ 43.4).
_base_ = './detr_r50_panoptic-boxes_8x2_300e_coco.py'

model = dict(
    backbone=dict(out_indices=(0, 1, 2, 3)),  # the mask head reads the finer levels, the transformer the last
    mask_head=dict(type='mmdet_detr.MaskHead', in_channels=(256, 512, 1024), num_things_classes=80),
    freeze_detector=True,
    test_cfg=dict(panoptic=dict(score_thr=0.85, min_area=5)),
)
val_evaluator = [
    dict(type='mmdet_detr.PanopticMetric', ann_file='data/coco/annotations/panoptic_val2017.json'),
    dict(
        type='mmdet_detr.CocoMetric',
        ann_file='data/coco/annotations/instances_val2017.json',
        metric=['bbox', 'segm'],
    ),
]
test_evaluator = val_evaluator
visualizer = dict(type='mmdet_detr.PanopticVisualizer')

train_cfg = dict(max_epochs=25, val_interval=1)
param_scheduler = _base_.mask_schedule
