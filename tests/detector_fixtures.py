"""Detectors and images for tests of inference and of the page."""

from pathlib import Path

import pytest
from detectors import save_checkpoint, small_config, write_images

import mmdet_detr
from mmdet_detr.inference import Detector


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp('run'), small_config())


@pytest.fixture(scope='session')
def detector(checkpoint: Path) -> Detector:
    return mmdet_detr.load(checkpoint, device='cpu')


@pytest.fixture(scope='session')
def panoptic_detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    config = small_config(panoptic=True)
    config.model.test_cfg.panoptic.score_thr = 0.2
    return mmdet_detr.load(save_checkpoint(tmp_path_factory.mktemp('panoptic'), config), device='cpu')


@pytest.fixture(scope='session')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('images')
    write_images(folder)
    return folder
