"""What went wrong in matching, told where people look: in the log, once an epoch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..log import warn
from ..models.matching.assigner import HungarianAssigner
from ..models.matching.loss import BipartiteMatchLoss, queries_advice
from ..registry import HOOKS

MAX_NAMED = 10  # images that a report names


@HOOKS.register_module()
class MatchReportHook(Hook):
    """Reports predictions that overflowed, annotations that were left out, crowded images, and collapsed queries.

    The first three come from every :class:`HungarianAssigner` and :class:`BipartiteMatchLoss` in the model, at the
    end of an epoch and before every validation; the last from the logged ``query_spread``.

    Args:
        min_spread: queries whose boxes differ less than this, in units of the image, count as one prediction.
        collapse_iters: iterations in a row with collapsed queries before the warning. The queries of a new DETR start
            alike, and need hundreds of iterations to part.
    """

    priority = 'LOW'  # after the one that logs

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
        name = next((name for name in outputs or () if name.endswith('query_spread')), None)  # 'aux.' may come first
        if name is None:
            return
        # mmengine has waited for it already
        spread = runner.message_hub.get_scalar(f'train/{name}').current()
        self._collapsed_for = self._collapsed_for + 1 if spread < self.min_spread else 0
        if self._collapsed_for == self.collapse_iters:
            warn(
                f'For {self.collapse_iters} iterations all queries have predicted one and the same box (query_spread '
                f'is {spread:.1e}): AP stays at 0 until they part. See docs/troubleshooting.md, "All queries predict '
                'the same box".'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        self._report(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        self._report(runner)

    def _report(self, runner: Runner) -> None:
        """Collect what has happened since the last report, on all ranks, and say it."""
        here = _Record()
        for module in runner.model.modules():
            assigner = getattr(module, 'assigner', None)
            if isinstance(assigner, HungarianAssigner):
                here.non_finite.update(assigner.non_finite)
                assigner.non_finite.clear()
            if isinstance(module, BipartiteMatchLoss):
                here.dropped.update(module.dropped)
                here.crowded.update(module.crowded)
                here.objects_per_image.update(module.objects_per_image)
                module.dropped.clear()
                module.crowded.clear()
        everywhere = _Record()
        for record in all_gather_object(here):
            for name, counter in vars(record).items():
                getattr(everywhere, name).update(counter)
        if everywhere.non_finite:
            lowest_layer_first = sorted(everywhere.non_finite.items(), key=lambda item: (item[0][1] or 0, -item[1]))
            named = [
                f'{count} in {image}' + ('' if layer is None else f', decoder layer {layer}')
                for (image, layer), count in lowest_layer_first[:MAX_NAMED]
            ]
            warn(
                f'{everywhere.non_finite.total()} predictions had a matching cost that is not finite and were matched '
                f'last: {"; ".join(named)}{_more(everywhere.non_finite)}.'
            )
        if everywhere.dropped:
            named = [f'{count} of {image}' for image, count in everywhere.dropped.most_common(MAX_NAMED)]
            more = _more(everywhere.dropped)
            warn(f'{everywhere.dropped.total()} annotations were left out: {"; ".join(named)}{more}.')
        if everywhere.crowded:
            warn(
                f'{everywhere.crowded.total()} times an image had more objects than the model has queries. '
                f'{queries_advice(everywhere.objects_per_image)}'
            )


@dataclass
class _Record:
    """What has happened, counted."""

    non_finite: Counter[tuple[str, int | None]] = field(default_factory=Counter)  # predictions by image and layer
    dropped: Counter[str] = field(default_factory=Counter)  # annotations by image
    crowded: Counter[str] = field(default_factory=Counter)  # times an image had more objects than queries
    objects_per_image: Counter[int] = field(default_factory=Counter)


def _more(counter: Counter) -> str:
    return f'; and {len(counter) - MAX_NAMED} more' if len(counter) > MAX_NAMED else ''
