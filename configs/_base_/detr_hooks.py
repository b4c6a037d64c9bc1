# Hooks that report on a run (docs/troubleshooting.md) and keep it alive (docs/reliability.md).
custom_hooks = [
    dict(type='NumClassCheckHook'),
    dict(type='mmdet_detr.ClassNamesHook'),
    dict(type='mmdet_detr.BatchSizeHook'),
    dict(type='mmdet_detr.SkipNonFiniteHook', max_consecutive=50),
    dict(type='mmdet_detr.MatchReportHook'),
    dict(type='mmdet_detr.LogHistoryHook'),
    dict(type='mmdet_detr.RunSummaryHook'),
    dict(type='mmdet_detr.ReproducibleHook'),
    dict(type='mmdet_detr.PreemptionHook'),
]
