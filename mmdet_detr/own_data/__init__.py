"""From a folder of one's own pictures to a trained detector."""

from .read import OwnData, OwnDataError, read_folder
from .training import finetune, prepare

__all__ = ['OwnData', 'OwnDataError', 'finetune', 'prepare', 'read_folder']
