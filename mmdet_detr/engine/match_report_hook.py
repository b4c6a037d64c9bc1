"""Reports in the log, once per epoch, what went wrong in matching."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..log import warn
from ..models.matching.assigner import HungarianAssigner
from ..models.matching.loss import BipartiteMatchLoss, queries_advice
from ..registry import HOOKS

MAX_NAMED = 10  # number of images that a report names


@HOOKS.register_module()
class MatchReportHook(Hook):
    """Reports predictions that overflowed, annotations that were left out, crowded images, and collapsed queries.

    At the end of an epoch and before every validation, the hook collects the first three from every
    :class:`HungarianAssigner` and :class:`BipartiteMatchLoss` in the model. It finds collapsed queries by the logged
    ``query_spread``.

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

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | Sequence | None = None,
        outputs: dict | None = None,
    ) -> None:
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
        self._report(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        self._report(runner)

    def _report(self, runner: Runner) -> None:
        """Log what has happened on all ranks since the last report."""
        total = _Record()
        for record in all_gather_object(_collect(runner.model)):
            for name, counter in vars(record).items():
                getattr(total, name).update(counter)
        if total.non_finite:
            lowest_layer_first = sorted(total.non_finite.items(), key=lambda item: (item[0][1] or 0, -item[1]))
            names = [
                f'{count} in {image}' + ('' if layer is None else f', decoder layer {layer}')
                for (image, layer), count in lowest_layer_first
            ]
            warn(
                f'{total.non_finite.total()} predictions had a matching cost that is not finite and were matched last: '
                f'{_shortened(names)}.'
            )
        if total.dropped:
            names = [f'{count} of {image}' for image, count in total.dropped.most_common()]
            warn(f'{total.dropped.total()} annotations were left out: {_shortened(names)}.')
        if total.crowded:
            warn(
                f'{total.crowded.total()} times an image had more objects than the model has queries. '
                f'{queries_advice(total.objects_per_image)}'
            )


@dataclass
class _Record:
    """Counts of what has happened."""

    non_finite: Counter[tuple[str, int | None]] = field(default_factory=Counter)  # predictions by image and layer
    dropped: Counter[str] = field(default_factory=Counter)  # annotations by image
    crowded: Counter[str] = field(default_factory=Counter)  # times an image had more objects than queries
    objects_per_image: Counter[int] = field(default_factory=Counter)  # images by their number of objects


def _collect(model: nn.Module) -> _Record:
    """Counts of this rank since the last report. Only the histogram of objects covers the whole run."""
    record = _Record()
    for module in model.modules():
        assigner = getattr(module, 'assigner', None)
        if isinstance(assigner, HungarianAssigner):
            record.non_finite.update(assigner.non_finite)
            assigner.non_finite.clear()
        if isinstance(module, BipartiteMatchLoss):
            record.dropped.update(module.dropped)
            record.crowded.update(module.crowded)
            record.objects_per_image.update(module.objects_per_image)
            module.dropped.clear()
            module.crowded.clear()
    return record


def _shortened(names: list[str]) -> str:
    """The first names of a list, and how many more it has."""
    more = f'; and {len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''
    return '; '.join(names[:MAX_NAMED]) + more
