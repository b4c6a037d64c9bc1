# The demonstration's network on photographs of blood cells (BCCD, docs/data.md): 205 + 87 images of 640x480 pixels with
# three classes, in nine minutes of one core, from initialised weights: those of the shapes do not help.
_base_ = ['./detr_r18_bccd_plain.py', '../_base_/detr_fast.py']

cls_weight = 1.5
queries, denoising = _base_.fast_head.training_queries
denoising = dict(denoising, cls_weight=1 / cls_weight)  # of the classes, as much as with a cls_weight of 3
model = dict(
    bbox_head=dict(
        loss=dict(
            type='mmdet_detr.BipartiteMatchLoss',
            loss_cls=dict(type='CrossEntropyLoss', loss_weight=cls_weight),  # boxes drown the classes otherwise
        ),
        training_queries=[dict(queries, num_queries=50), denoising],
        dense_supervision=dict(_base_.fast_head.dense_supervision, cls_weight=4 / cls_weight),
    ),
)

# Flips alone: few steps learn sizes and colours as they are in the test images. The crops and the jitter of the plain
# config do not pay in twenty minutes either (benchmarks/convergence.md).
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(type='mmdet_detr.ShortestSideResize', sizes=[144]),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))

# schedule
max_iters = 3000
train_cfg = dict(max_iters=max_iters, val_interval=500)
optim_wrapper = dict(
    constructor='mmdet_detr.MuonConstructor',
    optimizer=dict(type='mmdet_detr.Muon', lr=1e-3),
    muon=dict(lr=0.01),
)
warmup = max_iters // 10
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, begin=0, end=warmup, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=warmup, end=max_iters, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=4)
