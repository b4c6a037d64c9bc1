"""Give mmdet's DETR heads our loss: the same values, computed for all layers and images at once."""

from typing import Any

from mmdet.models.dense_heads import ConditionalDETRHead, DABDETRHead, DETRHead
from mmdet.models.task_modules.assigners import HungarianAssigner as MMDetHungarianAssigner
from mmdet.utils import ConfigType, InstanceList, OptConfigType
from torch import Tensor

from ..registry import MODELS
from .matching import BipartiteMatchLoss, HungarianAssigner
from .matching.costs import OVERLAP_EPS
from .matching.targets import targets_of

LOSS_CLS = {'type': 'CrossEntropyLoss', 'bg_cls_weight': 0.1, 'class_weight': 1.0}
LOSS_BBOX = {'type': 'L1Loss', 'loss_weight': 5.0}
LOSS_IOU = {'type': 'GIoULoss', 'loss_weight': 2.0}
TRAIN_CFG = {'assigner': {'type': 'mmdet_detr.HungarianAssigner'}}
MMDET_ASSIGNERS = ('HungarianAssigner', 'mmdet.HungarianAssigner', MMDetHungarianAssigner)


class BatchedLoss:
    """Replaces a head's ``loss_by_feat`` by :class:`BipartiteMatchLoss`; stands before the head among the bases.

    Takes the head's own arguments. Contrary to mmdet, box losses are divided by the number of objects even if an image
    has more objects than there are queries, and a sigmoid classification loss is always divided by the number of
    objects averaged over ranks (``sync_cls_avg_factor``).

    Args:
        loss_cls: as in the head. A softmax loss needs ``class_weight=1.0``, with ``bg_cls_weight`` for no object.
        loss_bbox: as in the head.
        loss_iou: as in the head, but on boxes in units of the image. This changes DIoU and others, but not IoU and
            GIoU. ``eps`` is in these units, too.
        train_cfg: as in the head. ``assigner`` may be our ``HungarianAssigner`` or mmdet's, which ours replaces.
        on_bad_annotation: as in :class:`BipartiteMatchLoss`.
        kwargs: other arguments of the head.

    Raises:
        ValueError: with these settings our loss would have other values than mmdet's.
    """

    num_classes: int

    def __init__(
        self,
        *args: Any,
        loss_cls: ConfigType = LOSS_CLS,
        loss_bbox: ConfigType = LOSS_BBOX,
        loss_iou: ConfigType = LOSS_IOU,
        train_cfg: OptConfigType = None,
        on_bad_annotation: str = 'drop',
        **kwargs: Any,
    ) -> None:
        class_weight = loss_cls.get('class_weight')
        if class_weight != (None if loss_cls.get('use_sigmoid') else 1.0):
            raise ValueError(f'a softmax loss_cls needs class_weight=1.0 and a sigmoid one none, got {class_weight}')
        no_object_weight = loss_cls.get('bg_cls_weight', 1.0)
        loss_cls = {name: value for name, value in loss_cls.items() if name not in ('class_weight', 'bg_cls_weight')}
        losses = {'loss_cls': loss_cls, 'loss_bbox': loss_bbox, 'loss_iou': {'eps': OVERLAP_EPS, **loss_iou}}
        assigner = {**(train_cfg or TRAIN_CFG)['assigner']}
        if assigner['type'] in MMDET_ASSIGNERS:
            assigner['type'] = 'mmdet_detr.HungarianAssigner'
        super().__init__(*args, train_cfg=None, **losses, **kwargs)  # type: ignore[call-arg]  # the head's
        self.match_loss = BipartiteMatchLoss(
            assigner,
            **losses,
            no_object_weight=no_object_weight,
            min_total_weight=1.0,
            on_bad_annotation=on_bad_annotation,
        )
        self.assigner = self.match_loss.assigner
        if not isinstance(self.assigner, HungarianAssigner):
            raise ValueError(f'the assigner must be a HungarianAssigner, got {type(self.assigner).__name__}')

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: None = None,
    ) -> dict[str, Tensor]:
        """Losses of every decoder layer, for logits (L, B, Q, K') and boxes (L, B, Q, 4), normalised cxcywh."""
        targets = targets_of(batch_gt_instances, batch_img_metas, self.num_classes)
        return self.match_loss(all_layers_cls_scores, all_layers_bbox_preds, targets)


@MODELS.register_module()
class BatchedDETRHead(BatchedLoss, DETRHead):
    """mmdet's ``DETRHead``."""


@MODELS.register_module()
class BatchedConditionalDETRHead(BatchedLoss, ConditionalDETRHead):
    """mmdet's ``ConditionalDETRHead``."""


@MODELS.register_module()
class BatchedDABDETRHead(BatchedLoss, DABDETRHead):
    """mmdet's ``DABDETRHead``."""
