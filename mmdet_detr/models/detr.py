"""The detector: backbone, transformer, head."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from mmdet.models.backbones import ResNet
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import OptSampleList, SampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from torch import Tensor, nn

from ..checkpoints.fit import fit_to_model
from ..errors import ConfigError
from ..log import warn
from ..registry import MODELS
from .frozen_norm import fold_frozen_norms
from .masks import MaskHead
from .memory_format import prefers_channels_last
from .padding import PaddedSizes, is_traced, padded_sizes
from .queries import QuerySets
from .transformer_neck import TRACED, TransformerOutput


@MODELS.register_module()
class DETR(BaseDetector):
    """End-to-End Object Detection with Transformers (arXiv 2005.12872).

    Args:
        backbone: any mmdet backbone.
        neck: a :class:`TransformerNeck`, or any module that makes a :class:`TransformerOutput` of feature maps and the
            data samples; or a list that ends with one, after mmdet's necks, such as an FPN.
        bbox_head: a :class:`DETRHead`.
        mask_head: a :class:`MaskHead`; None detects boxes only.
        freeze_detector: train the mask head alone, and run the rest without gradients. As in the official code, it
            still drops out.
        predict_dtype: ``'bfloat16'``, or ``'float16'`` on a GPU, predicts under autocast, in ``mim test``, in mmdet's
            ``DetInferencer`` and wherever else; None stays with the type of the weights. Training has
            ``AmpOptimWrapper``.
        train_cfg: handed to the head.
        test_cfg: handed to the head, all but ``panoptic``, the ``test_cfg`` of the mask head.
        data_preprocessor: as in mmdet.
        init_cfg: as in mmengine.

    Raises:
        ConfigError: the last neck takes no data samples; or the head has ``training_queries``, and the neck takes no
            ``training_sets``; or the mask head has more classes of things than there are classes; or there is nothing
            to train; or ``predict_dtype`` is none of these.
    """

    def __init__(
        self,
        backbone: ConfigType,
        neck: ConfigType | Sequence[ConfigType],
        bbox_head: ConfigType,
        mask_head: OptConfigType = None,
        freeze_detector: bool = False,
        predict_dtype: str | None = None,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.freeze_detector = freeze_detector
        if predict_dtype not in (None, 'bfloat16', 'float16'):
            raise ConfigError(f"DETR(predict_dtype={predict_dtype!r}) has to be None, 'bfloat16' or 'float16'")
        self.predict_dtype: torch.dtype | None = getattr(torch, predict_dtype) if predict_dtype else None
        self._has_weights = False
        self.backbone = MMDET_MODELS.build(backbone)
        self.channels_last = prefers_channels_last(self.backbone)
        if self.channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        if isinstance(self.backbone, ResNet):
            fold_frozen_norms(self.backbone)
        *feature_necks, transformer = neck if isinstance(neck, (list, tuple)) and neck else [neck]
        # With a name of their own for the feature necks, the transformer's weights have the names of published ones.
        self.feature_neck = MMDET_MODELS.build(feature_necks) if feature_necks else nn.Identity()
        self.neck = MMDET_MODELS.build(transformer) if transformer else nn.Identity()
        if len(signature(self.neck.forward).parameters) < 2:
            raise ConfigError(
                'the last neck of DETR must make hidden states of feature maps and data samples, as TransformerNeck '
                f'does, and {type(self.neck).__name__} does not'
            )
        of_masks = (test_cfg or {}).get('panoptic')
        of_boxes = {name: value for name, value in (test_cfg or {}).items() if name != 'panoptic'}
        given = {'train_cfg': train_cfg, 'test_cfg': of_boxes}
        self.bbox_head = MMDET_MODELS.build({**bbox_head, **{name: cfg for name, cfg in given.items() if cfg}})
        self.bbox_head.check_transformer(self.neck)
        self.mask_head: MaskHead | None = None
        if mask_head:
            self.mask_head = MMDET_MODELS.build({**mask_head, **({'test_cfg': of_masks} if of_masks else {})})
            things = self.mask_head.num_things_classes
            if things is not None and things > self.bbox_head.num_classes:
                raise ConfigError(
                    f'MaskHead(num_things_classes={things}) is in a model of {self.bbox_head.num_classes} classes: '
                    'None makes all of them things'
                )
        elif of_masks:
            raise ConfigError('test_cfg.panoptic is for a mask_head, which this DETR does not have')
        elif freeze_detector:
            raise ConfigError('DETR(freeze_detector=True) without mask_head has nothing to train')
        if freeze_detector:
            for part in (self.backbone, self.feature_neck, self.neck, self.bbox_head):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> 'DETR':
        """Switch to training; the statistics of a frozen detector stay."""
        super().train(mode)
        if self.freeze_detector:
            for part in (self.backbone, self.feature_neck):
                for module in part.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of backbone and feature necks for images (B, 3, H, W)."""
        if self.channels_last:
            batch_inputs = batch_inputs.contiguous(memory_format=torch.channels_last)
        return self.feature_neck(self.backbone(batch_inputs))

    def forward_transformer(
        self,
        batch_inputs: Tensor,
        batch_data_samples: OptSampleList | PaddedSizes,
        training_sets: Sequence[QuerySets] = (),
    ) -> tuple[tuple[Tensor, ...], TransformerOutput]:
        """Feature maps of images (B, 3, H, W), and what the transformer makes of them."""
        feats = self.extract_feat(batch_inputs)
        return feats, self.neck(feats, batch_data_samples, *([training_sets] if training_sets else []))

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Weighted losses of every decoder layer, see :class:`BipartiteMatchLoss`, and of the masks of the last one."""
        if self.freeze_detector and not self._has_weights:
            self._has_weights = True  # said once
            warn('freeze_detector=True, and no weights are loaded: give load_from a checkpoint with trained boxes')
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_detector):
            sets = self.bbox_head.training_sets(batch_data_samples)
            feats, output = self.forward_transformer(batch_inputs, batch_data_samples, sets)
            losses, matches = self.bbox_head.loss_and_matches(output, batch_data_samples)
        if self.mask_head is not None:
            losses |= self.mask_head.loss(feats, output, matches, batch_data_samples)
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """The samples, each with ``pred_instances``, see :meth:`DETRHead.predict` and :meth:`MaskHead.predict`.

        With classes of stuff, also ``pred_panoptic_seg`` with ``sem_seg`` (1, h, w).
        """
        with torch.autocast(batch_inputs.device.type, self.predict_dtype, enabled=bool(self.predict_dtype)):
            return self._predict(batch_inputs, batch_data_samples, rescale)

    def _predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool) -> SampleList:
        if self.mask_head is None:
            _, output = self.forward_transformer(batch_inputs, batch_data_samples)
            results = self.bbox_head.predict(output, batch_data_samples, rescale=rescale)
            return self.add_pred_to_datasample(batch_data_samples, results)
        # The mask head's norms would count padding as image: so images of one size are taken together, without padding.
        sizes = [tuple(sample.img_shape[:2]) for sample in batch_data_samples]
        for height, width in dict.fromkeys(sizes):
            indices = [index for index, size in enumerate(sizes) if size == (height, width)]
            samples = [batch_data_samples[index] for index in indices]
            for sample in samples:
                sample.set_metainfo({'batch_input_shape': (height, width)})
            self._predict_masks(batch_inputs[indices, :, :height, :width], samples, rescale)
        return batch_data_samples

    def _predict_masks(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool) -> None:
        assert self.mask_head is not None
        feats, output = self.forward_transformer(batch_inputs, batch_data_samples)
        detections = self.bbox_head.detect(output, batch_data_samples, rescale=rescale)
        things, maps = self.mask_head.predict(feats, output, detections, batch_data_samples, rescale)
        for sample, panoptic in zip(batch_data_samples, maps or [], strict=False):
            sample.pred_panoptic_seg = panoptic
        self.add_pred_to_datasample(batch_data_samples, things)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict, *args: Any
    ) -> None:
        """Take the weights of any published DETR, see ``checkpoints/fit.py``."""
        self._has_weights |= any(name.startswith((f'{prefix}neck.', f'{prefix}bbox_head.')) for name in state_dict)
        fit_to_model(self, state_dict, prefix, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def forward(
        self, inputs: Tensor, data_samples: OptSampleList | Tensor = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | SampleList | tuple[Tensor, ...]:
        """As in mmdet's detectors; and in mode ``'tensor'``, ``data_samples`` can be a tensor of sizes.

        Args:
            inputs: normalised images (B, 3, H, W), padded at the right and at the bottom.
            data_samples: of the images; or, in mode ``'tensor'``, their unpadded (height, width), whole pixels (B, 2).
                A model that is traced or exported needs the latter.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.

        Returns:
            Losses, predictions, or logits (L, B, Q, K+1), normalised cxcywh boxes (L, B, Q, 4), and mask logits
            (B, Q, H, W) of a mask head.

        Raises:
            ConfigError: the sizes do not fit the images, or are missing where the model is traced.
        """
        if mode != 'tensor':
            return super().forward(inputs, data_samples, mode)
        if data_samples is None and is_traced():
            raise ConfigError(f'{TRACED}: without sizes the traced model would ignore padding')
        sizes = padded_sizes(inputs, data_samples) if isinstance(data_samples, Tensor) else data_samples
        return self._forward(inputs, sizes)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: OptSampleList | PaddedSizes = None
    ) -> tuple[Tensor, ...]:
        feats, output = self.forward_transformer(batch_inputs, batch_data_samples)
        masks = () if self.mask_head is None else (self.mask_head.all_queries(feats, output),)
        return (*self.bbox_head(output), *masks)
