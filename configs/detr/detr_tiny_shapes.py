# The demonstration: a small DETR on generated images of 64 pixels, trained in minutes on two CPU cores.
# Data: mim run mmdet_detr make_shapes data/shapes
_base_ = ['./detr_tiny_shapes_plain.py', '../_base_/detr_fast.py']

queries, denoising = _base_.fast_head.training_queries
model = dict(
    bbox_head=dict(
        loss=dict(
            type='mmdet_detr.BipartiteMatchLoss',
            loss_cls=dict(type='CrossEntropyLoss', loss_weight=3.0),  # from scratch, boxes drown the classes otherwise
        ),
        training_queries=[dict(queries, num_queries=10), denoising],
        dense_supervision=_base_.fast_head.dense_supervision,
    ),
)
train_dataloader = dict(batch_size=16)
optim_wrapper = dict(
    constructor='mmdet_detr.MuonConstructor',
    optimizer=dict(type='mmdet_detr.Muon'),
    muon=dict(lr=0.01),
)
auto_scale_lr = dict(base_batch_size=16)
