# DETR R101 with parameters, gradients and optimizer states split among the ranks by PyTorch's FSDP.
# For distributed training only: mim train mmdet_detr CONFIG --launcher pytorch --gpus 8
_base_ = './detr_r101_8x2_500e_coco.py'

runner_type = 'FlexibleRunner'
strategy = dict(type='mmdet_detr.FSDPStrategy')
