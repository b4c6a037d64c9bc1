from .batch_size_hook import BatchSizeHook
from .class_names_hook import ClassNamesHook
from .match_report_hook import MatchReportHook
from .skip_non_finite_hook import SkipNonFiniteHook

__all__ = ['BatchSizeHook', 'ClassNamesHook', 'MatchReportHook', 'SkipNonFiniteHook']
