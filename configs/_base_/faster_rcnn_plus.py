# The "+" of the paper's table 1 adds this to a Faster R-CNN: GIoU loss, DETR's random crop, 109 epochs.
_base_ = './detr_augmentation.py'
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)

plus_roi_head = dict(
    bbox_head=dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=10.0)),
)
plus_train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    *_base_.detr_augmentation,
]
plus_epochs = 109  # the 3x schedule, three times as long
plus_param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=plus_epochs, by_epoch=True, milestones=[85, 103], gamma=0.1),
]
