"""Registries of mmdet_detr. mmengine imports them by itself for ``type='mmdet_detr.X'``."""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmdet_detr', locations=['mmdet_detr.datasets']
)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmdet_detr', locations=['mmdet_detr.datasets'])
FUNCTIONS = Registry('function', parent=MMENGINE_FUNCTIONS, scope='mmdet_detr', locations=['mmdet_detr.engine'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmdet_detr', locations=['mmdet_detr.engine'])
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmdet_detr', locations=['mmdet_detr.models'])
STRATEGIES = Registry('strategy', parent=MMENGINE_STRATEGIES, scope='mmdet_detr', locations=['mmdet_detr.engine'])
TASK_UTILS = Registry('task util', parent=MMENGINE_TASK_UTILS, scope='mmdet_detr', locations=['mmdet_detr.models'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmdet_detr', locations=['mmdet_detr.datasets'])
