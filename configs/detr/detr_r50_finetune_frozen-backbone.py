# detr_r50_finetune with a backbone that keeps its loaded weights: less memory and time, for little data.
_base_ = './detr_r50_finetune.py'

model = dict(backbone=dict(frozen_stages=4))
