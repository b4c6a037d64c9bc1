# What all configs of configs/mixed share.
_base_ = ['./detr_head.py', './detr_optimizer.py']
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)
