from .atomic_checkpoint_hook import AtomicCheckpointHook, CheckpointWriteError
from .batch_size_hook import BatchSizeHook
from .class_names_hook import ClassNamesHook
from .match_report_hook import MatchReportHook
from .preemption_hook import PreemptionHook
from .reproducible_hook import ReproducibleHook
from .skip_non_finite_hook import SkipNonFiniteHook

__all__ = [
    'AtomicCheckpointHook',
    'BatchSizeHook',
    'CheckpointWriteError',
    'ClassNamesHook',
    'MatchReportHook',
    'PreemptionHook',
    'ReproducibleHook',
    'SkipNonFiniteHook',
]
