"""The model learns the names of its classes before weights are loaded."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..registry import HOOKS


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Gives the model its data set's ``metainfo`` as ``dataset_meta``, as mmdet's inference does.

    A checkpoint that is loaded afterwards brings its classifier's rows to the classes of the same name.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # the loop that runs is built by now, the others may be configs still
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, 'dataloader'):
                model.dataset_meta = loop.dataloader.dataset.metainfo
                return
