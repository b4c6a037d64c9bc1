"""Registries of mmdet_detr. mmengine imports this module by itself for ``type='mmdet_detr.X'``."""

from mmengine import registry as parents
from mmengine.registry import Registry


def _child(parent: Registry, *folders: str) -> Registry:
    """A registry of ours below one of mmengine's. mmengine imports the folders when it looks for a type in it."""
    locations = [f'mmdet_detr.{folder}' for folder in folders]
    return Registry(parent.name, parent=parent, scope='mmdet_detr', locations=locations)


DATA_SAMPLERS = _child(parents.DATA_SAMPLERS, 'datasets')
DATASETS = _child(parents.DATASETS, 'datasets')
FUNCTIONS = _child(parents.FUNCTIONS, 'engine')
HOOKS = _child(parents.HOOKS, 'engine')
LOG_PROCESSORS = _child(parents.LOG_PROCESSORS, 'engine')
METRICS = _child(parents.METRICS, 'evaluation')
MODELS = _child(parents.MODELS, 'models', 'export')
OPTIMIZERS = _child(parents.OPTIMIZERS, 'engine')
OPTIM_WRAPPERS = _child(parents.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(parents.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
STRATEGIES = _child(parents.STRATEGIES, 'engine')
TASK_UTILS = _child(parents.TASK_UTILS, 'models')
TRANSFORMS = _child(parents.TRANSFORMS, 'datasets')
VISUALIZERS = _child(parents.VISUALIZERS, 'visualization')
