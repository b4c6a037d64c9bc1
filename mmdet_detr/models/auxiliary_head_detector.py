"""Train a detector with a second head on the same features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmdet.models.detectors import BaseDetector
from mmdet.models.utils import rename_loss_dict, reweight_loss_dict
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import OptSampleList, SampleList
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import MODELS

HEADS = ('detector', 'aux_head')
PARTS = ('detector.', 'aux_neck.', 'aux_head.')


@MODELS.register_module()
class AuxiliaryHeadDetector(BaseDetector):
    """Any detector of mmdet, trained with a second head on the same features.

    A DETR head beside the head or the two stages of another detector, or a dense head beside a DETR, as in
    collaborative training (Co-DETR, arXiv 2211.12860, section 3.2). Backbone and neck run once a step. For several
    auxiliary heads, an ``AuxiliaryHeadDetector`` can be the detector of another one.

    A checkpoint of the detector alone loads into this one. The way back is mmengine's
    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix='detector.')`` of the plain detector.

    Args:
        detector: a detector with its ``data_preprocessor``.
        aux_head: a head with mmdet's ``loss(feats, samples)`` and ``predict(feats, samples, rescale)``, such as a
            :class:`DETRHead` with a transformer or mmdet's ``FCOSHead``; ``train_cfg`` and ``test_cfg`` are its own.
        aux_neck: a neck, or a list of necks, between the detector's features and the auxiliary head.
        aux_loss_weight: factor of the auxiliary head's losses.
        predict_by: the head that predicts, ``'detector'`` or ``'aux_head'``; the other one does not run then.
        data_preprocessor: replaces the detector's.
        init_cfg: as in mmengine.

    Raises:
        ConfigError: ``predict_by`` names no head, or one without the ``test_cfg`` that it needs.
    """

    def __init__(
        self,
        detector: ConfigType,
        aux_head: ConfigType,
        aux_neck: ConfigType | list[ConfigType] | None = None,
        aux_loss_weight: float = 1.0,
        predict_by: str = 'detector',
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
    ) -> None:
        if predict_by not in HEADS:
            raise ConfigError(f'predict_by must be one of {HEADS}, got {predict_by!r}')
        inner = MMDET_MODELS.build(detector)
        super().__init__(data_preprocessor=data_preprocessor or inner.data_preprocessor, init_cfg=init_cfg)
        self.detector = inner
        self.aux_neck = MMDET_MODELS.build(aux_neck) if aux_neck else nn.Identity()
        self.aux_head = MMDET_MODELS.build(aux_head)
        if predict_by == 'aux_head' and getattr(self.aux_head, 'test_cfg', {}) is None:
            raise ConfigError(f"predict_by='aux_head' needs a test_cfg in aux_head, a {type(self.aux_head).__name__}")
        self.aux_loss_weight = aux_loss_weight
        self.predict_by = predict_by

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the detector for images (B, 3, H, W)."""
        return self.detector.extract_feat(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The detector's losses, and those of the auxiliary head with ``aux.`` before their names."""
        feats = self.extract_feat(batch_inputs)
        with self._features(feats):
            losses = self.detector.loss(batch_inputs, batch_data_samples)
        aux_losses = reweight_loss_dict(
            self.aux_head.loss(self.aux_neck(feats), batch_data_samples), self.aux_loss_weight
        )
        prefix = 'aux.'
        while any(name.startswith(prefix) for name in losses):  # The detector has an auxiliary head itself.
            prefix += 'aux.'
        return {**losses, **rename_loss_dict(prefix, aux_losses)}

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """The samples, each with ``pred_instances`` of the head that ``predict_by`` names."""
        if self.predict_by == 'detector':
            return self.detector.predict(batch_inputs, batch_data_samples, rescale=rescale)
        feats = self.aux_neck(self.extract_feat(batch_inputs))
        results = self.aux_head.predict(feats, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> tuple:
        """Raw outputs of the head that ``predict_by`` names."""
        if self.predict_by == 'detector':
            return self.detector._forward(batch_inputs, batch_data_samples)
        return self.aux_head(self.aux_neck(self.extract_feat(batch_inputs)))

    @contextmanager
    def _features(self, feats: tuple[Tensor, ...]) -> Iterator[None]:
        """Let ``extract_feat`` of the detector return features that are computed already."""
        self.detector.extract_feat = lambda batch_inputs: feats
        try:
            yield
        finally:
            del self.detector.extract_feat

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict, *args: Any
    ) -> None:
        """Take a checkpoint of the detector alone for the detector's part."""
        names = [name for name in state_dict if name.startswith(prefix)]
        parts = PARTS if not isinstance(self.detector, AuxiliaryHeadDetector) else ('detector.detector.',)
        if not any(name.startswith(tuple(prefix + part for part in parts)) for name in names):
            for name in names:
                state_dict[f'{prefix}detector.{name.removeprefix(prefix)}'] = state_dict.pop(name)
        # A DETR reads the names of the file and of its classes from here.
        metadata = getattr(state_dict, '_metadata', None) or {}
        metadata[f'{prefix}detector'] = {**local_metadata, **metadata.get(f'{prefix}detector', {})}
        if hasattr(self, 'dataset_meta'):
            self.detector.dataset_meta = self.dataset_meta
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
