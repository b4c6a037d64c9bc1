"""mmdet's DETR heads with our loss: the same values, computed for all layers and images at once."""

from typing import Any

from mmdet.models.dense_heads import ConditionalDETRHead, DABDETRHead, DETRHead
from mmdet.utils import ConfigType, InstanceList, OptConfigType
from torch import Tensor

from ..registry import MODELS
from .bipartite_match_loss import BipartiteMatchLoss
from .match_costs import OVERLAP_EPS
from .targets import targets_of

LOSS_CLS = {'type': 'CrossEntropyLoss', 'bg_cls_weight': 0.1}
LOSS_BBOX = {'type': 'L1Loss', 'loss_weight': 5.0}
LOSS_IOU = {'type': 'GIoULoss', 'loss_weight': 2.0}
ASSIGNER = {'type': 'mmdet_detr.HungarianAssigner'}


class BatchedLoss:
    """Puts :class:`BipartiteMatchLoss` in the place of a head's ``loss_by_feat``; comes before the head's class.

    Takes the head's own arguments. ``train_cfg.assigner`` may name mmdet's ``HungarianAssigner`` or ours. Other than
    mmdet's, the losses of images with more objects than queries are divided by the number of objects, and the number
    is averaged over ranks for the classification loss, too.

    Args:
        loss_cls: as in the head.
        loss_bbox: as in the head.
        loss_iou: as in the head, for boxes in units of the image. IoU and GIoU do not mind; for a loss that does, as
            DIoU, the values differ from mmdet's.
        train_cfg: as in the head; None matches at DETR's costs.
        kwargs: what else the head takes.
    """

    num_classes: int

    def __init__(
        self,
        *args: Any,
        loss_cls: ConfigType = LOSS_CLS,
        loss_bbox: ConfigType = LOSS_BBOX,
        loss_iou: ConfigType = LOSS_IOU,
        train_cfg: OptConfigType = None,
        **kwargs: Any,
    ) -> None:
        if loss_cls.get('class_weight', 1.0) != 1.0:
            raise ValueError(f'class_weight must be 1.0 or absent, got {loss_cls["class_weight"]}')
        no_object_weight = loss_cls.get('bg_cls_weight', 1.0)
        loss_cls = {name: value for name, value in loss_cls.items() if name not in ('class_weight', 'bg_cls_weight')}
        losses = {'loss_cls': loss_cls, 'loss_bbox': loss_bbox, 'loss_iou': {'eps': OVERLAP_EPS, **loss_iou}}
        super().__init__(*args, train_cfg=train_cfg, **losses, **kwargs)  # type: ignore[call-arg]  # the head's
        assigner = {**(train_cfg or {}).get('assigner', {}), **ASSIGNER}
        self.match_loss = BipartiteMatchLoss(assigner, **losses, no_object_weight=no_object_weight)
        self.assigner = self.match_loss.assigner

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
