"""Finds what is wrong with the data that a config would read."""

from .check import SplitReport, check_overlap, check_split
from .sources import Source, num_queries_of, sources_of
from .whole import check_config

__all__ = [
    'Source',
    'SplitReport',
    'check_config',
    'check_overlap',
    'check_split',
    'num_queries_of',
    'sources_of',
]
