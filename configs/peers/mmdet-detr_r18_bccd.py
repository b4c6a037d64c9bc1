# mmdet's own DETR to compare detr_r18_bccd.py with: its widths, data, optimizer and number of iterations.
_base_ = ['../detr/detr_r18_bccd.py', '../_base_/mmdet_detr_tiny.py']
model = dict(
    _delete_=True,
    type='DETR',
    num_queries={{_base_.model.neck.num_queries}},
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone={{_base_.model.backbone}},
    neck={{_base_.mmdet_neck}},
    encoder={{_base_.mmdet_encoder}},
    decoder={{_base_.mmdet_decoder}},
    positional_encoding=dict(num_feats=32, normalize=True),
    bbox_head={{_base_.mmdet_head}},
    train_cfg=dict(assigner={{_base_.mmdet_assigner}}),
    test_cfg={{_base_.model.test_cfg}},
)
