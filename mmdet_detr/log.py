"""Write warnings to the log of a run."""

import logging

from mmengine.logging import print_log


def warn(message: str) -> None:
    """Write a warning to the run's log."""
    print_log(message, logger='current', level=logging.WARNING)
