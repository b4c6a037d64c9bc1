"""From a folder of one's own pictures to a trained detector."""

from .finetune import finetune, prepare
from .read import OwnData, OwnDataError, read_folder

__all__ = ['OwnData', 'OwnDataError', 'finetune', 'prepare', 'read_folder']
