# The demonstration's network on photographs of raccoons (docs/data.md): 131 + 33 images of all sizes, one class, in nine
# minutes of one core. Start from the demonstration's checkpoint (load_from).
_base_ = ['./detr_r18_bccd.py', '../_base_/raccoon.py']

model = dict(
    neck=dict(num_queries=10),  # at most 3 raccoons in an image
    bbox_head=dict(
        num_classes=1,
        training_queries=[dict(_base_.queries, num_queries=10), _base_.denoising],
    ),
    test_cfg=dict(max_per_img=10),
)

train_dataloader = _base_.raccoon_train
optim_wrapper = dict(optimizer=dict(lr=5e-4), muon=dict(lr=0.005))  # half of the cells' rates
val_dataloader = _base_.raccoon_val
test_dataloader = val_dataloader
val_evaluator = _base_.raccoon_evaluator
test_evaluator = val_evaluator
