from pathlib import Path

import pytest
from detectors import save_checkpoint, small_config
from helpers import ROOT
from mmengine.config import Config


def save_run(folder: Path, config: Config) -> Path:
    """The folder of a run: random weights that make detections of all classes, and the config."""
    save_checkpoint(folder, config)
    config.dump(folder / 'config.py')
    return folder


def with_dropout(panoptic: bool = False) -> Config:
    """Unlike the demonstration's, as every network of the paper."""
    config = small_config(panoptic)
    config.model.neck.dropout = 0.1
    return config


@pytest.fixture(scope='session')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp('boxes'), with_dropout())


@pytest.fixture(scope='session')
def panoptic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = with_dropout(panoptic=True)
    config.model.test_cfg.panoptic.score_thr = 0.2
    return save_run(tmp_path_factory.mktemp('panoptic'), config)


@pytest.fixture(scope='session')
def big_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-18 to its last stage with frozen batch norms, as the configs for COCO have it."""
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_r18_8x2_500e_coco.py')
    config.model.backbone.init_cfg = None
    config.test_dataloader.dataset.metainfo = {'classes': tuple(f'class {i}' for i in range(80))}
    return save_run(tmp_path_factory.mktemp('r18'), config)
