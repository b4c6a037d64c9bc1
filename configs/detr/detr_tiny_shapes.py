# The demonstration: a small DETR on generated images of 64 pixels, trained in minutes on two CPU cores.
# Data: mim run mmdet_detr make_shapes data/shapes
_base_ = ['./detr_tiny_shapes_plain.py', '../_base_/detr_fast.py']

groups, denoising = _base_.fast_head.training_queries  # groups took more time than they gave (docs/convergence.md)
cls_weight = 1.5
model = dict(
    bbox_head=dict(
        loss=dict(
            type='mmdet_detr.BipartiteMatchLoss',
            loss_cls=dict(type='CrossEntropyLoss', loss_weight=cls_weight),  # boxes drown the classes otherwise
        ),
        # of the classes, both weigh as much as with a cls_weight of 3
        training_queries=[dict(denoising, cls_weight=1 / cls_weight)],
        dense_supervision=dict(_base_.fast_head.dense_supervision, cls_weight=4 / cls_weight),
    ),
)
train_dataloader = dict(batch_size=16)
optim_wrapper = dict(
    constructor='mmdet_detr.MuonConstructor',
    optimizer=dict(type='mmdet_detr.Muon'),
    muon=dict(lr=0.01),
)
auto_scale_lr = dict(base_batch_size=16)
