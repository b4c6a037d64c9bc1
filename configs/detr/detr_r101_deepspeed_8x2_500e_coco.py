# DETR R101 with gradients and optimizer states split among the ranks by DeepSpeed's ZeRO: pip install deepspeed==0.16.9
# For distributed training only: mim train mmdet_detr CONFIG --launcher pytorch --gpus 8
_base_ = './detr_r101_8x2_500e_coco.py'

runner_type = 'FlexibleRunner'
strategy = dict(
    type='DeepSpeedStrategy',
    zero_optimization=dict(stage=2),
    gradient_clipping=0.1,
    train_micro_batch_size_per_gpu=2,
)
optim_wrapper = dict(
    _delete_=True,
    type='DeepSpeedOptimWrapper',
    optimizer=_base_.optim_wrapper.optimizer,
    paramwise_cfg=_base_.optim_wrapper.paramwise_cfg,
)
