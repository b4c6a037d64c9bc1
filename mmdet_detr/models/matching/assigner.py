"""One-to-one matching of predictions and objects at the least cost (paper section 3.1)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.models.task_modules.assigners.match_cost import BaseMatchCost
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.utils import ConfigType
from mmengine.structures import InstanceData
from torch import Tensor

from ...errors import ConfigError, one_line
from ...registry import TASK_UTILS
from ..precision import at_least_float32
from .assignment import Solution, batch_linear_assignment, solve
from .costs import batched_cost
from .targets import Targets, image_name

DETR_COSTS = (
    {'type': 'ClassificationCost', 'weight': 1.0},
    {'type': 'BBoxL1Cost', 'weight': 5.0, 'box_format': 'xywh'},
    {'type': 'IoUCost', 'iou_mode': 'giou', 'weight': 2.0},
)


@TASK_UTILS.register_module()
class HungarianAssigner(BaseAssigner):
    """Matches predictions and objects one to one at the least total cost.

    Predictions that overflow have costs that are not finite. They are matched last, and :attr:`non_finite` counts them.

    Args:
        match_costs: one of mmdet's costs, or several that are summed. :meth:`assign` takes any of them, :meth:`match`
            those on classes and boxes.
        device_solver_from: :meth:`match` solves on the GPU if the package torch-linear-assignment is installed and an
            image of the batch has at least this many objects. None leaves everything to SciPy. Not measured on a GPU
            yet: ``benchmarks/cuda.py`` prints the number from which it is faster.

    Raises:
        ConfigError: ``match_costs`` is empty, or one of them cannot be built.
        ValueError: ``device_solver_from`` is below 1.
    """

    def __init__(
        self, match_costs: ConfigType | Sequence[ConfigType] = DETR_COSTS, device_solver_from: int | None = None
    ) -> None:
        if not match_costs:
            raise ConfigError('HungarianAssigner needs at least one cost in match_costs')
        if isinstance(match_costs, dict):
            match_costs = [match_costs]
        self.match_costs = [_built(cost) for cost in match_costs]
        if device_solver_from is not None and device_solver_from < 1:
            raise ValueError(f'device_solver_from must be at least 1 or None, got {device_solver_from}')
        self.device_solver_from = device_solver_from
        # Number of predictions with a cost that is not finite, by image and decoder layer (None in assign()).
        self.non_finite: Counter[tuple[str, int | None]] = Counter()

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Cost of every prediction against every object of its own image.

        Args:
            logits: (L, B, Q, K+1), or (L, B, Q, K) for a sigmoid loss.
            boxes: (L, B, Q, 4), normalised cxcywh.
            targets: objects of the batch.

        Returns:
            Tensor (L, B, Q, T), at least float32. Columns of objects that are not valid hold any numbers.

        Raises:
            ConfigError: one of ``match_costs`` has no batched form.
        """
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        num_layers, batch_size = boxes.shape[:2]
        cost = batched_cost(
            self.match_costs,
            logits.flatten(0, 1),
            boxes.flatten(0, 1),
            targets.labels.expand(num_layers, -1, -1).flatten(0, 1),
            targets.boxes.to(boxes.dtype).expand(num_layers, -1, -1, -1).flatten(0, 1),
        )
        return cost.unflatten(0, (num_layers, batch_size)).transpose(2, 3)

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Solution:
        """Match all images of all decoder layers; arguments as in :meth:`cost`.

        The loss copies from the device to the host once, here, and once back. Of more objects than queries, those that
        cost least are matched.
        """
        cost = self.cost(logits, boxes, targets).transpose(2, 3)
        num_targets, num_queries = cost.shape[2:]
        solution = solve(cost, targets.valid, on_device=self._solves_on_device(num_targets, num_queries, cost.device))
        for layer, image in zip(*solution.non_finite.nonzero(), strict=True):
            self.non_finite[targets.images[image], int(layer)] += int(solution.non_finite[layer, image])
        return solution

    def _solves_on_device(self, num_targets: int, num_queries: int, device: torch.device) -> bool:
        return (
            self.device_solver_from is not None
            and self.device_solver_from <= num_targets <= num_queries
            and device.type == 'cuda'
            and batch_linear_assignment is not None
        )

    @torch.no_grad()
    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs: Any
    ) -> AssignResult:
        """Match one image, as mmdet's heads ask for it.

        Args:
            pred_instances: the fields that the costs read: ``scores`` (Q, K+1) logits, ``bboxes`` (Q, 4) xyxy in
                pixels, masks.
            gt_instances: ``labels`` (T,), ``bboxes`` (T, 4) xyxy in pixels, masks.
            img_meta: ``img_shape`` (h, w).
            kwargs: accepted as by mmdet's assigners; not read.

        Returns:
            ``gt_inds`` (Q,): 0 for no object, else 1 + the index of the object; ``labels`` (Q,): its class or -1.
        """
        num_preds, num_gts = len(pred_instances), len(gt_instances)
        gt_labels = gt_instances.labels
        gt_inds = gt_labels.new_zeros(num_preds, dtype=torch.long)
        labels = gt_labels.new_full((num_preds,), -1, dtype=torch.long)
        if num_preds and num_gts:
            predicted, annotated = _at_least_float32(pred_instances), _at_least_float32(gt_instances)
            with torch.autocast(gt_labels.device.type, enabled=False):
                costs = [cost(predicted, annotated, img_meta) for cost in self.match_costs]
            cost = torch.stack(costs).sum(0).t()[None, None]
            solution = solve(cost, gt_labels.new_ones((1, num_gts), dtype=torch.bool))
            if solution.non_finite.any():
                self.non_finite[image_name(img_meta), None] += int(solution.non_finite.sum())
            gt_inds[solution.queries] = solution.targets + 1
            labels[solution.queries] = gt_labels[solution.targets]
        return AssignResult(num_gts=num_gts, gt_inds=gt_inds, max_overlaps=None, labels=labels)


def _built(cost: ConfigType) -> BaseMatchCost:
    try:
        built = MMDET_TASK_UTILS.build(cost)
    except (AssertionError, KeyError, TypeError) as error:  # mmengine raises these for a type or argument it lacks
        raise ConfigError(
            f'match_costs of HungarianAssigner: {cost!r} is no cost of mmdet: {one_line(error)}'
        ) from error
    if not isinstance(built, BaseMatchCost):
        raise ConfigError(f'match_costs of HungarianAssigner: {cost!r} is no cost, but a {type(built).__name__}')
    return built


def _at_least_float32(instances: InstanceData) -> InstanceData:
    """Copy with its tensors of real numbers lifted to float32, so that mmdet's costs do not overflow."""
    lifted = {
        name: at_least_float32(field) if isinstance(field, Tensor) and field.is_floating_point() else field
        for name, field in instances.items()
    }
    return InstanceData(metainfo=instances.metainfo, **lifted)
