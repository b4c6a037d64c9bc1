from .annotations import AnnotationError
from .images import BrokenImageError
from .robust_coco_dataset import BrokenDataError, RobustCocoDataset
from .seeded_sampler import SeededSampler
from .shortest_side_resize import ShortestSideResize

__all__ = [
    'AnnotationError',
    'BrokenDataError',
    'BrokenImageError',
    'RobustCocoDataset',
    'SeededSampler',
    'ShortestSideResize',
]
