"""Gives the model the names of its classes before weights are loaded."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..registry import HOOKS


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Sets the model's ``dataset_meta`` to the ``metainfo`` of its data set, as mmdet's inference does.

    The model uses the names when it loads a checkpoint: rows of the classifier go to the classes of the same name.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # Only the loop that runs is certainly built here. The other loops may still be configs, without a dataloader.
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, 'dataloader'):
                model.dataset_meta = loop.dataloader.dataset.metainfo
                return
