# COCO's panoptic files: every segment, stuff too, is an object with a box and a mask.
panoptic_train = dict(
    type='mmdet_detr.PanopticDataset',
    ann_file='annotations/panoptic_train2017.json',
    data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
)
panoptic_val = dict(
    type='mmdet_detr.PanopticDataset',
    ann_file='annotations/panoptic_val2017.json',
    data_prefix=dict(img='val2017/', seg='annotations/panoptic_val2017/'),
)
# The official recipe for masks: 25 epochs, and a tenth of the learning rate after 15.
mask_schedule = [dict(type='MultiStepLR', begin=0, end=25, by_epoch=True, milestones=[15], gamma=0.1)]
