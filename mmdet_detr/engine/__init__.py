from .match_report_hook import MatchReportHook
from .skip_non_finite_hook import SkipNonFiniteHook

__all__ = ['MatchReportHook', 'SkipNonFiniteHook']
