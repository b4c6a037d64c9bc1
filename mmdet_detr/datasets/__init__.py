from .annotations import AnnotationError
from .images import BrokenImageError
from .load_panoptic_segments import LoadPanopticSegments
from .panoptic_dataset import PanopticDataset
from .robust_coco_dataset import BrokenDataError, RobustCocoDataset
from .seeded_sampler import SeededSampler
from .shortest_side_resize import ShortestSideResize

__all__ = [
    'AnnotationError',
    'BrokenDataError',
    'BrokenImageError',
    'LoadPanopticSegments',
    'PanopticDataset',
    'RobustCocoDataset',
    'SeededSampler',
    'ShortestSideResize',
]
