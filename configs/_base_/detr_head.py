# A DETR head for a detector of mmdet. A config adds what the transformer reads: in_channels, and levels of a pyramid.
detr_transformer = dict(type='mmdet_detr.TransformerNeck')
detr_head = dict(type='mmdet_detr.DETRHead', num_classes=80)
# A set predictor returns all of its queries: delete the old head's options for NMS and its score threshold.
detr_test_cfg = dict(_delete_=True, max_per_img=100)
