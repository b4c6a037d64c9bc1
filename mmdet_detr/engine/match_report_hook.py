"""Reports in the log, once per epoch, what went wrong in matching."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..errors import ConfigError
from ..log import warn
from ..models.matching.assigner import HungarianAssigner
from ..models.matching.loss import BipartiteMatchLoss, queries_advice
from ..registry import HOOKS

MAX_NAMED = 10  # number of images that a report names


@HOOKS.register_module()
class MatchReportHook(Hook):
    """Reports predictions that overflowed, annotations that were left out, crowded images, and collapsed queries.

    At the end of an epoch and before every validation, the hook collects the first three from every
    :class:`HungarianAssigner` and :class:`BipartiteMatchLoss` in the model. Collapsed queries show in ``query_spread``.
    A training on images without any object ends before its first iteration with a :class:`ConfigError`.

    Args:
        min_spread: the queries are collapsed if their boxes differ less than this, as a fraction of the image size.
        collapse_iters: number of consecutive iterations with collapsed queries before the warning. In a new DETR, all
            queries start with nearly the same box and need hundreds of iterations to separate.
    """

    priority = 'LOW'  # after the hook that collects the scalars for the log

    def __init__(self, min_spread: float = 1e-3, collapse_iters: int = 2000) -> None:
        self.min_spread = min_spread
        self.collapse_iters = collapse_iters
        self._collapsed_for = 0

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_loop.dataloader.dataset
        if not any(map(_may_have_objects, _infos(dataset))):
            classes = ', '.join(map(str, dataset.metainfo.get('classes', ())))
            raise ConfigError(
                f'train_dataloader: not one of its {len(dataset)} images has an object to learn of the classes '
                f'{classes}: look at its ann_file, and at iscrowd and ignore in it. mim run mmdet_detr check_data '
                'CONFIG says more'
            )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # The name has a prefix such as 'aux.' if the head is an auxiliary one.
        name = next((name for name in outputs or () if name.endswith('query_spread')), None)
        if name is None:
            return
        # The logged value is already on the host, while the output would need another wait for the device.
        spread = runner.message_hub.get_scalar(f'train/{name}').current()
        self._collapsed_for = self._collapsed_for + 1 if spread < self.min_spread else 0
        if self._collapsed_for == self.collapse_iters:
            warn(
                f'For {self.collapse_iters} iterations all queries have predicted the same box (query_spread is '
                f'{spread:.1e}): AP stays at 0 until the boxes differ. See docs/troubleshooting.md, "All queries '
                'predict the same box".'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Log what has happened on all ranks since the last report."""
        counts = [Counter[Any](), Counter[Any](), Counter[Any](), Counter[Any]()]
        for of_rank in all_gather_object(_collect(runner.model)):
            for total, counter in zip(counts, of_rank, strict=True):
                total.update(counter)
        non_finite, dropped, crowded, objects_per_image = counts
        if non_finite:
            lowest_layer_first = sorted(non_finite.items(), key=lambda item: (item[0][1] or 0, -item[1]))
            names = [
                f'{count} in {image}' + ('' if layer is None else f', decoder layer {layer}')
                for (image, layer), count in lowest_layer_first
            ]
            warn(
                f'{non_finite.total()} predictions had a matching cost that is not finite and were matched last: '
                f'{_shortened(names)}.'
            )
        if dropped:
            names = [f'{count} of {image}' for image, count in dropped.most_common()]
            warn(f'{dropped.total()} annotations were left out: {_shortened(names)}.')
        if crowded:
            warn(
                f'{crowded.total()} times an image had more objects than the model has queries. '
                f'{queries_advice(objects_per_image)}'
            )

    before_val_epoch = after_train_epoch


def _infos(dataset: Any) -> Iterator[dict]:
    """What the annotation files of a data set say of each image; of a wrapper that does not tell, one empty dict."""
    if not hasattr(dataset, 'get_data_info'):
        yield {}
        return
    for index in range(len(dataset)):
        yield dataset.get_data_info(index)


def _may_have_objects(info: dict) -> bool:
    instances = info.get('instances')
    return instances is None or any(not instance.get('ignore_flag') for instance in instances)


def _collect(model: nn.Module) -> tuple[Counter, Counter, Counter, Counter]:
    """This rank's predictions that overflowed, annotations left out, crowded images, and images by their objects."""
    non_finite, dropped, crowded, objects_per_image = Counter[Any](), Counter[Any](), Counter[Any](), Counter[Any]()
    for module in model.modules():
        assigner = getattr(module, 'assigner', None)
        if isinstance(assigner, HungarianAssigner):
            non_finite.update(assigner.non_finite)
            assigner.non_finite.clear()
        if isinstance(module, BipartiteMatchLoss):
            dropped.update(module.dropped)
            crowded.update(module.crowded)
            objects_per_image.update(module.objects_per_image)  # of the whole run, not since the last report
            module.dropped.clear()
            module.crowded.clear()
    return non_finite, dropped, crowded, objects_per_image


def _shortened(names: list[str]) -> str:
    more = f'; and {len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''
    return '; '.join(names[:MAX_NAMED]) + more
