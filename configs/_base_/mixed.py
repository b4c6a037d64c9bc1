# The configs of configs/mixed share this head, optimizer and import.
_base_ = ['./detr_head.py', './detr_optimizer.py']
custom_imports = dict(imports=['mmdet_detr'], allow_failed_imports=False)
