"""The detector and its parts."""

from .attention_weights import attention_weights
from .auxiliary_head_detector import AuxiliaryHeadDetector
from .batched_heads import BatchedConditionalDETRHead, BatchedDABDETRHead, BatchedDETRHead
from .detr import DETR
from .detr_head import DETRHead
from .masks import MaskHead, MaskLoss
from .matching import BipartiteMatchLoss, HungarianAssigner
from .resnet_dc5 import ResNetDC5
from .training_only import DenoisingQueries, DenseSupervision, QueryGroups
from .transformer_neck import TransformerNeck, TransformerOutput

__all__ = [
    'DETR',
    'AuxiliaryHeadDetector',
    'BatchedConditionalDETRHead',
    'BatchedDABDETRHead',
    'BatchedDETRHead',
    'BipartiteMatchLoss',
    'DETRHead',
    'DenoisingQueries',
    'DenseSupervision',
    'HungarianAssigner',
    'MaskHead',
    'MaskLoss',
    'QueryGroups',
    'ResNetDC5',
    'TransformerNeck',
    'TransformerOutput',
    'attention_weights',
]
