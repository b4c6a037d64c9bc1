"""Wraps the DETR of Hugging Face's transformers as an mmdet detector, to compare it with others."""

from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import OptSampleList, SampleList
from mmdet.utils import OptConfigType
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import ConfigError
from ..registry import MODELS

TRAINED_STAGES = ('stages.1', 'stages.2', 'stages.3')  # the official recipe freezes the ResNet's stem and first stage


@MODELS.register_module()
class TransformersDETR(BaseDetector):
    """``transformers.DetrForObjectDetection`` with random weights, transformers' ResNet-50 and auxiliary losses.

    Two settings follow the official recipe instead of the defaults of transformers. Dropout in attention and
    feed-forward networks is 0.1 (default: none). The last three stages of the backbone are trained (transformers
    freezes the whole ResNet, because it searches for parameter names that this ResNet does not have).

    Args:
        num_classes: number of classes K.
        num_queries: number of queries Q.
        data_preprocessor: config of the preprocessor, as in mmdet.

    Raises:
        ConfigError: transformers is not installed.
    """

    def __init__(self, num_classes: int = 80, num_queries: int = 100, data_preprocessor: OptConfigType = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        try:
            from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
        except ImportError as error:
            raise ConfigError('TransformersDETR needs transformers: pip install "transformers>=5"') from error
        config = DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=ResNetConfig(out_features=['stage4']),
            num_labels=num_classes,
            num_queries=num_queries,
            auxiliary_loss=True,
            attention_dropout=0.1,
            activation_dropout=0.1,
        )
        self.model = DetrForObjectDetection(config)
        for name, parameter in self.model.model.backbone.named_parameters():
            trained = any(stage in name for stage in TRAINED_STAGES) and 'normalization' not in name
            parameter.requires_grad_(trained)
        self._loss_function = self.model.loss_function
        self.model.loss_function = lambda *args, **kwargs: self.loss_by_feat(*args, **kwargs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The sum of all losses as ``loss``, for images (B, 3, H, W)."""
        labels = []
        for sample in batch_data_samples:
            (height, width), instances = sample.img_shape[:2], sample.gt_instances
            x1, y1, x2, y2 = (instances.bboxes / instances.bboxes.new_tensor([width, height] * 2)).unbind(-1)
            boxes = torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)
            labels.append({'class_labels': instances.labels, 'boxes': boxes})
        return {'loss': self.model(batch_inputs, pixel_mask(batch_inputs, batch_data_samples), labels=labels).loss}

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Any:
        """Matching and losses of transformers. The benchmark times methods of this name."""
        return self._loss_function(*args, **kwargs)

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """The samples with ``pred_instances`` of all queries. Boxes are xyxy in pixels of the original image."""
        outputs = self.model(batch_inputs, pixel_mask(batch_inputs, batch_data_samples))
        scores, labels = outputs.logits.float().softmax(-1)[..., :-1].max(-1)
        cx, cy, w, h = outputs.pred_boxes.float().unbind(-1)
        corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=-1)
        results = []
        for i, sample in enumerate(batch_data_samples):
            height, width = (sample.ori_shape if rescale else sample.img_shape)[:2]
            pixels = corners[i] * corners.new_tensor([width, height] * 2)
            results.append(InstanceData(bboxes=pixels, scores=scores[i], labels=labels[i]))
        return self.add_pred_to_datasample(batch_data_samples, results)

    def extract_feat(self, batch_inputs: Tensor) -> Tensor:
        """The last feature map (B, C, h, w) of the backbone."""
        mask = batch_inputs.new_ones((len(batch_inputs), *batch_inputs.shape[2:]), dtype=torch.long)
        return self.model.model.backbone(batch_inputs, mask)[0][-1][0]

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> tuple[Tensor, Tensor]:
        outputs = self.model(batch_inputs, pixel_mask(batch_inputs, batch_data_samples))
        return outputs.logits, outputs.pred_boxes


def pixel_mask(images: Tensor, samples: OptSampleList) -> Tensor:
    """A mask (B, H, W) that is 1 on pixels of the images and 0 on padding."""
    mask = torch.zeros((len(images), *images.shape[2:]), dtype=torch.long, device=images.device)
    for i, sample in enumerate(samples or ()):
        height, width = sample.img_shape[:2]
        mask[i, :height, :width] = 1
    return mask if samples else mask + 1
