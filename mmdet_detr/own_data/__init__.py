"""From a folder of one's own pictures to a trained detector."""

from ..compat.terminal import quiet_imports

with quiet_imports():  # of mmdet's data sets
    from .read import OwnData, OwnDataError, read_folder
    from .training import finetune, prepare

__all__ = ['OwnData', 'OwnDataError', 'finetune', 'prepare', 'read_folder']
