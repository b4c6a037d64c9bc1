"""What a file says about itself, so that it is enough to detect with."""

import hashlib
from pathlib import Path
from typing import Any

from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..datasets import ShortestSideResize
from ..errors import ConfigError
from ..inference import Detector
from ..log import warn
from ..version import __version__
from .deployable import Deployable

KEY = 'mmdet_detr'  # under which a file holds its metadata, as JSON
FORMAT_VERSION = 1
PICTURE_THR = 0.5  # default threshold of the runtime
KEEPS_SIZE = ('LoadImage', 'LoadAnnotations', 'LoadPanoptic', 'PackDet')


def describe(
    detector: Detector, module: Deployable, config: Config, checkpoint: Path, precision: str
) -> dict[str, Any]:
    """Metadata of a file: everything that a runtime needs beside the graph.

    Raises:
        ConfigError: the preprocessing is none that the runtime can repeat.
    """
    preprocessor = module.model.data_preprocessor
    if getattr(preprocessor, 'pad_value', 0):
        raise ConfigError(f'images padded with {preprocessor.pad_value} cannot be exported: use pad_value=0')
    mask_head = module.model.mask_head
    min_score = float(module.model.bbox_head.test_cfg.get('score_thr') or 0)  # it leaves out detections
    masks: dict[str, Any] = {}
    if mask_head is not None:
        masks = {
            'num_things_classes': mask_head.num_things_classes,
            'panoptic_score_thr': mask_head.test_cfg['score_thr'],
            'min_area': mask_head.test_cfg['min_area'],
        }
    return {
        'format_version': FORMAT_VERSION,
        'mmdet_detr': __version__,
        'config': Path(config.filename).stem if config.filename else None,
        'classes': list(detector.classes),
        'palette': [list(colour) for colour in detector.palette] if detector.palette else None,
        'mean': module.mean.flatten().tolist(),
        'std': module.std.flatten().tolist(),
        'channel_order': 'rgb' if getattr(preprocessor, '_channel_conversion', False) else 'bgr',
        'resize': _resize(config),
        # Masks are predicted without padding, see DETR.
        'pad_size_divisor': 1 if masks else getattr(preprocessor, 'pad_size_divisor', 1),
        'uint8': module.uint8,
        'raw': module.raw,
        'precision': precision,
        'min_score': min_score,
        'score_thr': max(PICTURE_THR, min_score),
        **masks,
        'checkpoint': checkpoint.name,
        'checkpoint_sha256': hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }


def _resize(config: Config) -> dict[str, int | None] | None:
    """The rule of the test pipeline; None where images keep their size."""
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        steps = [(step.type, TRANSFORMS.build(step)) for step in get_test_pipeline_cfg(config)]
    rule = None
    for name, step in steps:
        if isinstance(step, ShortestSideResize):
            if len(step.sizes) > 1:
                raise ConfigError(f'the test pipeline draws its size from {step.sizes}: give it one')
            rule = {'shortest': step.sizes[0], 'longest': step.longest}
        elif isinstance(step, Resize) and step.keep_ratio and isinstance(step.scale, tuple):
            rule = {'shortest': min(step.scale), 'longest': max(step.scale)}
            warn(
                'the runtime resizes as mmdet_detr.ShortestSideResize does; the Resize of the config rounds and '
                'smooths differently, so detections will differ a little'
            )
        elif not any(part in str(name) for part in KEEPS_SIZE):
            raise ConfigError(f'the runtime cannot repeat {name} of the test pipeline: export a config without it')
    return rule
