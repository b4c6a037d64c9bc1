from pathlib import Path

import pytest
from attention_images import IMAGE
from detectors import save_checkpoint, small_config
from mmengine.config import Config

import mmdet_detr
from mmdet_detr.attention import ImageAttention, attend
from mmdet_detr.inference import Detector


def padded(panoptic: bool = False) -> Config:
    """The network sees images of 50 x 70 pixels as 48 x 67 in 64 x 96: 8 x 12 cells, 6 x 9 of them of the image."""
    config = small_config(panoptic)
    config.model.data_preprocessor.pad_size_divisor = 32
    return config


@pytest.fixture(scope='session')
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return mmdet_detr.load(save_checkpoint(tmp_path_factory.mktemp('run'), padded()), device='cpu')


@pytest.fixture(scope='session')
def panoptic_detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    path: Path = save_checkpoint(tmp_path_factory.mktemp('panoptic'), padded(panoptic=True))
    return mmdet_detr.load(path, device='cpu')


@pytest.fixture(scope='session')
def attention(detector: Detector) -> ImageAttention:
    return attend(detector, IMAGE, 0.5)


@pytest.fixture(scope='session')
def panoptic_attention(panoptic_detector: Detector) -> ImageAttention:
    return attend(panoptic_detector, IMAGE, 0.2)
