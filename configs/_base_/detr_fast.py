# Parts for training only that make a DETR converge in a fraction of the steps (docs/convergence.md). A config puts
# fast_head into its bbox_head, and adds num_queries to the groups where it has another number than 100. Each cls_weight
# multiplies the head's own loss_cls.
fast_head = dict(
    training_queries=[
        dict(type='mmdet_detr.QueryGroups', num_groups=2, loss_weight=2.0),
        dict(type='mmdet_detr.DenoisingQueries', num_sets=3, loss_weight=3.0, cls_weight=0.33),
    ],
    dense_supervision=dict(type='mmdet_detr.DenseSupervision', loss_weight=3.0, cls_weight=1.33),
)
