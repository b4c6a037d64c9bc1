# As detr_r50_finetune, with the backbone left as it was loaded: less memory and time, for little data.
_base_ = './detr_r50_finetune.py'

model = dict(backbone=dict(frozen_stages=4))
