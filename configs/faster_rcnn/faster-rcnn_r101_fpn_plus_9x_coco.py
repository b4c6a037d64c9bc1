# Faster R-CNN-R101-FPN+ of the paper's table 1, 44.0 AP there: GIoU loss, DETR's random crop, 109 epochs.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py', '../_base_/detr_augmentation.py']
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

model = dict(
    roi_head=dict(bbox_head=dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=10.0))),
)
train_dataloader = dict(dataset=dict(pipeline={{_base_.detr_augmentation}}))

# the 3x schedule, three times as long
max_epochs = 109
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[85, 103], gamma=0.1),
]
