"""Wraps the DETR of Hugging Face's transformers as an mmdet detector, to compare it with others."""

from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import OptSampleList, SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet.utils import OptConfigType
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import ConfigError
from ..registry import MODELS

TRAINED_STAGES = ('stages.1', 'stages.2', 'stages.3')  # the official recipe freezes the ResNet's stem and first stage


@MODELS.register_module()
class TransformersDETR(BaseDetector):
    """``transformers.DetrForObjectDetection`` with random weights, transformers' ResNet-50 and auxiliary losses.

    Two settings follow the official recipe instead of the defaults of transformers: dropout is 0.1 in attention and
    feed-forward networks, too, and the last three stages of the backbone are trained (transformers freezes the whole
    ResNet, because it searches for parameter names that this ResNet does not have).

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
            instances = sample.gt_instances
            boxes = bbox_xyxy_to_cxcywh(instances.bboxes / _size_of(sample.img_shape, instances.bboxes))
            labels.append({'class_labels': instances.labels, 'boxes': boxes})
        return {'loss': self._run(batch_inputs, batch_data_samples, labels=labels).loss}

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Any:
        """Matching and losses of transformers. The benchmark times methods of this name."""
        return self._loss_function(*args, **kwargs)

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """The samples with ``pred_instances`` of all queries. Boxes are xyxy in pixels of the original image."""
        outputs = self._run(batch_inputs, batch_data_samples)
        scores, labels = outputs.logits.float().softmax(-1)[..., :-1].max(-1)
        corners = bbox_cxcywh_to_xyxy(outputs.pred_boxes.float())
        sizes = [sample.ori_shape if rescale else sample.img_shape for sample in batch_data_samples]
        results = [
            InstanceData(bboxes=corners[i] * _size_of(size, corners), scores=scores[i], labels=labels[i])
            for i, size in enumerate(sizes)
        ]
        return self.add_pred_to_datasample(batch_data_samples, results)

    def extract_feat(self, batch_inputs: Tensor) -> None:
        """Not available: mmdet asks for this method, but transformers runs its backbone by itself."""
        raise NotImplementedError

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> tuple[Tensor, Tensor]:
        outputs = self._run(batch_inputs, batch_data_samples)
        return outputs.logits, outputs.pred_boxes

    def _run(self, images: Tensor, samples: OptSampleList, **kwargs: Any) -> Any:
        mask = None  # the images have no padding
        if samples:
            mask = torch.zeros((len(images), *images.shape[2:]), dtype=torch.long, device=images.device)
            for pixels, sample in zip(mask, samples, strict=True):
                pixels[: sample.img_shape[0], : sample.img_shape[1]] = 1
        return self.model(images, mask, **kwargs)


def _size_of(shape: tuple[int, ...], like: Tensor) -> Tensor:
    height, width = shape[:2]
    return like.new_tensor([width, height, width, height])
