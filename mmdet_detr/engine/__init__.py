"""Hooks, an optimizer, a strategy and worker functions for training with mmengine."""

from .atomic_checkpoint_hook import AtomicCheckpointHook, CheckpointWriteError
from .batch_size_hook import BatchSizeHook
from .class_names_hook import ClassNamesHook
from .fsdp_strategy import FSDPStrategy
from .log_history_hook import LogHistoryHook
from .log_processor import LogProcessor
from .match_report_hook import MatchReportHook
from .muon import Muon, MuonConstructor
from .preemption_hook import PreemptionHook
from .reproducible_hook import ReproducibleHook
from .run_summary_hook import RunSummaryHook
from .skip_non_finite_hook import SkipNonFiniteHook
from .workers import leave_signals_to_parent

__all__ = [
    'AtomicCheckpointHook',
    'BatchSizeHook',
    'CheckpointWriteError',
    'ClassNamesHook',
    'FSDPStrategy',
    'LogHistoryHook',
    'LogProcessor',
    'MatchReportHook',
    'Muon',
    'MuonConstructor',
    'PreemptionHook',
    'ReproducibleHook',
    'RunSummaryHook',
    'SkipNonFiniteHook',
    'leave_signals_to_parent',
]
