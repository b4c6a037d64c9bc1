"""The config and the checkpoint in the folder of a run."""

import pytest

from mmdet_detr.errors import CheckpointNotFoundError, ConfigError
from mmdet_detr.runs import find_checkpoint, find_config


def test_one_config(tmp_path):
    with pytest.raises(ConfigError, match='found 0'):
        find_config(tmp_path)
    config = tmp_path / 'detr.py'
    config.touch()
    assert find_config(tmp_path) == find_config(config) == config
    (tmp_path / 'other.py').touch()
    with pytest.raises(ConfigError, match='found 2'):
        find_config(tmp_path)
    with pytest.raises(ConfigError, match='no such config or folder of a run'):
        find_config(tmp_path / 'absent')


def test_best_before_last(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match='has no checkpoint'):
        find_checkpoint(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('/a/folder/before/it/moved/epoch_3.pth')
    with pytest.raises(CheckpointNotFoundError, match='has no checkpoint'):
        find_checkpoint(tmp_path)
    (tmp_path / 'epoch_3.pth').touch()
    assert find_checkpoint(tmp_path) == tmp_path / 'epoch_3.pth'
    for name in ('best_coco_bbox_mAP_epoch_9.pth', 'best_coco_bbox_mAP_epoch_10.pth'):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path) == tmp_path / 'best_coco_bbox_mAP_epoch_10.pth'
    with pytest.raises(CheckpointNotFoundError, match='is no folder of a run'):
        find_checkpoint(tmp_path / 'epoch_3.pth')
