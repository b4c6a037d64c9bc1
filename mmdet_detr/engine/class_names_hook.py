"""Gives the model the names of its classes before weights are loaded."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..errors import ConfigError
from ..registry import HOOKS


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Sets the model's ``dataset_meta`` to the ``metainfo`` of its data set, as mmdet's inference does.

    The model uses the names when it loads a checkpoint: rows of the classifier go to the classes of the same name.
    A mask head that takes another number of classes for things than the data have is a ``ConfigError``.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # Only the loop that runs is certainly built here. The other loops may still be configs, without a dataloader.
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, 'dataloader'):
                model.dataset_meta = loop.dataloader.dataset.metainfo
                _require_same_things(model, model.dataset_meta)
                return


def _require_same_things(model: nn.Module, meta: Mapping[str, Any]) -> None:
    ours, theirs = getattr(getattr(model, 'mask_head', None), 'num_things_classes', None), meta.get('thing_classes')
    if ours is not None and theirs is not None and ours != len(theirs):
        raise ConfigError(
            f'MaskHead(num_things_classes={ours}), and the first {len(theirs)} classes of the data are things: '
            'the others would be taken for stuff, or stuff for things'
        )
