# mmdet's own DETR at the widths of detr_tiny_shapes.py. A config adds num_queries, data_preprocessor, backbone, test_cfg.
tiny_attention = dict(embed_dims=64, num_heads=4, dropout=0.0, batch_first=True)
tiny_ffn = dict(
    embed_dims=64, feedforward_channels=256, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type='ReLU', inplace=True)
)
mmdet_detr_tiny = dict(
    type='DETR',
    neck=dict(
        type='ChannelMapper', in_channels=[64], kernel_size=1, out_channels=64, act_cfg=None, norm_cfg=None, num_outs=1
    ),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=tiny_attention, ffn_cfg=tiny_ffn)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=tiny_attention, cross_attn_cfg=tiny_attention, ffn_cfg=tiny_ffn),
        return_intermediate=True,
    ),
    positional_encoding=dict(num_feats=32, normalize=True),
    bbox_head=dict(
        type='DETRHead',
        num_classes=3,
        embed_dims=64,
        loss_cls=dict(type='CrossEntropyLoss', bg_cls_weight=0.1, use_sigmoid=False, loss_weight=1.0, class_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
)
