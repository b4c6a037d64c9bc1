"""From a checkpoint to a detector: where its config comes from, and that no code in the file is run."""

import shutil
from dataclasses import replace

import foreign
import numpy as np
import pytest
import torch
from detectors import CLASSES, PALETTE, save_checkpoint, small_config
from foreign import R50, Sizes
from helpers import ROOT
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import MODELS
from mmengine.fileio.io import file_handlers
from mmengine.registry import Registry, registry

import mmdet_detr
from mmdet_detr.checkpoints import CheckpointError, CheckpointNotFoundError
from mmdet_detr.checkpoints.class_rows import COCO_NAMES
from mmdet_detr.checkpoints.source import Source, with_source
from mmdet_detr.errors import ConfigError
from mmdet_detr.inference.load import _packaged_config


def test_a_checkpoint_alone(detector):
    assert detector.classes == CLASSES
    assert detector.palette == PALETTE
    assert not detector.model.training
    assert detector.model.dataset_meta['classes'] == CLASSES
    assert repr(detector) == '<Detector: DETR, 3 classes: circle, square, triangle>'


def test_the_folder_of_a_run(checkpoint, tmp_path, images, detector):
    shutil.copytree(checkpoint.parent, tmp_path / 'run')
    loaded = mmdet_detr.load(tmp_path / 'run', device='cpu')
    path = images / 'colour.png'
    assert loaded(path, 0).boxes.tolist() == detector(path, 0).boxes.tolist()
    (tmp_path / 'run' / 'iter_7.pth').rename(tmp_path / 'run' / 'best_coco_bbox_mAP_iter_7.pth')
    loaded = mmdet_detr.load(tmp_path / 'run', device='cpu')
    assert loaded(path, 0).boxes.tolist() == detector(path, 0).boxes.tolist()
    (tmp_path / 'run' / 'best_coco_bbox_mAP_iter_7.pth').unlink()
    with pytest.raises(CheckpointNotFoundError, match='has no checkpoint'):
        mmdet_detr.load(tmp_path / 'run')


def test_a_config_that_is_named_goes_first(checkpoint, tmp_path):
    config = small_config()
    config.model.test_cfg.max_per_img = 4
    config.dump(tmp_path / 'config.py')
    for given in (config, tmp_path / 'config.py', str(tmp_path / 'config.py')):
        detector = mmdet_detr.load(checkpoint, given, 'cpu')
        assert len(detector(np.zeros((64, 64, 3), np.uint8), 0)) == 4
    with pytest.raises(ConfigError, match=r"load\('weights.pth', config='.*config.py'\)"):
        mmdet_detr.load(tmp_path / 'config.py')


def test_names_of_a_checkpoint_without_any_are_those_of_the_config(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=False)
    torch.save({'state_dict': content['state_dict']}, tmp_path / 'weights.pth')
    detector = mmdet_detr.load(tmp_path / 'weights.pth', small_config(), 'cpu')
    assert (detector.classes, detector.palette) == (CLASSES, PALETTE)
    with pytest.raises(ConfigError, match=r'weights.pth holds no config, and is no published DETR, .*by config='):
        mmdet_detr.load(tmp_path / 'weights.pth')
    config = small_config()
    del config.test_dataloader.dataset.metainfo
    config.test_dataloader.dataset.type = 'NoSuchDataset'
    with pytest.raises(ConfigError, match='names classes: name a config with metainfo'):
        mmdet_detr.load(tmp_path / 'weights.pth', config, 'cpu')


def test_a_config_in_a_checkpoint_is_not_executed(tmp_path):
    config = small_config()
    marker = tmp_path / 'marker'
    code = f'import os\nos.mkdir({str(marker)!r})\nx = os.mkdir({str(marker)!r})\n'
    before = Registry.get, registry.get_object_from_string, dict(file_handlers)
    path = save_checkpoint(tmp_path, config, cfg=code + config.pretty_text)
    assert mmdet_detr.load(path, device='cpu').classes == CLASSES
    assert not marker.exists()
    call = {'type': 'os.mkdir', 'path': str(marker)}
    for change, message in (
        ({'model.backbone.init_cfg': call}, r"the config in .*iter_7.pth: type 'os.mkdir' .* config that you trust by"),
        ({'test_dataloader.dataset.pipeline': [call]}, "type 'os.mkdir'"),
        ({'default_scope': 'evil'}, "default_scope 'evil'"),
        ({'model.neck.type': 'NoSuchNeck'}, 'cannot be built: .*NoSuchNeck; name a config that you trust by config='),
    ):
        evil = small_config()
        evil.merge_from_dict(change)
        content = torch.load(path, weights_only=False)
        content['meta']['cfg'] = evil.pretty_text
        torch.save(content, tmp_path / 'iter_7.pth')
        with pytest.raises(ConfigError, match=message):
            mmdet_detr.load(tmp_path / 'iter_7.pth', device='cpu')
        assert not marker.exists()
        assert (Registry.get, registry.get_object_from_string, file_handlers) == before
    small_config().dump(tmp_path / 'config.py')  # The config of a run is trusted where its folder is named.
    for cfg in (evil.pretty_text, 'x = 1', None):
        content['meta']['cfg'] = cfg
        torch.save(content, path)
        assert mmdet_detr.load(tmp_path, device='cpu').classes == CLASSES


def test_what_is_no_checkpoint_for_it(checkpoint, tmp_path):
    config = small_config()
    config.model.backbone.base_channels = 16
    with pytest.raises(CheckpointError, match='does not fit the model'):
        mmdet_detr.load(checkpoint, config, 'cpu')
    with pytest.raises(CheckpointNotFoundError, match=r'no such file: .*none.pth'):
        mmdet_detr.load(tmp_path / 'none.pth')
    with pytest.raises(ConfigError, match='there is no device meat'):
        mmdet_detr.load(checkpoint, device='meat')
    torch.save({'state_dict': {'a.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='is no checkpoint of a DETR, and holds no config: name'):
        mmdet_detr.load(tmp_path / 'other.pth')


def test_other_models_of_mmdet(tmp_path):
    """Here a RetinaNet; a missing entry is an error."""
    config = small_config()
    config.model = {
        'type': 'RetinaNet',
        'data_preprocessor': config.model.data_preprocessor,
        'backbone': {'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'out_indices': (2, 3)},
        'neck': {'type': 'FPN', 'in_channels': [32, 64], 'out_channels': 8, 'num_outs': 3},
        'bbox_head': {
            'type': 'RetinaHead',
            'num_classes': 3,
            'in_channels': 8,
            'feat_channels': 8,
            'stacked_convs': 1,
            'anchor_generator': {
                'type': 'AnchorGenerator',
                'octave_base_scale': 4,
                'scales_per_octave': 1,
                'ratios': [1.0],
                'strides': [16, 32, 64],
            },
        },
        'test_cfg': {'nms_pre': 10, 'min_bbox_size': 0, 'score_thr': 0.0, 'max_per_img': 5, 'nms': {'type': 'nms'}},
    }
    model = MODELS.build(config.model)
    meta = {'cfg': config.pretty_text, 'dataset_meta': {'classes': CLASSES}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'whole.pth')
    assert type(mmdet_detr.load(tmp_path / 'whole.pth', device='cpu').model).__name__ == 'RetinaNet'
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith('neck.')}
    torch.save({'state_dict': weights, 'meta': meta}, tmp_path / 'part.pth')
    with pytest.raises(CheckpointError, match=r'it lacks neck\.'):
        mmdet_detr.load(tmp_path / 'part.pth', device='cpu')


def packaged(make, sizes: Sizes, path: str = 'weights.pth', **facts: object):
    """The config that is chosen for weights without values."""
    with torch.device('meta'):
        weights = make(sizes).state_dict
    return _packaged_config(with_source({'state_dict': weights}, Source(path, **facts)), path)


@pytest.mark.parametrize(
    ('name', 'path', 'facts', 'backbone'),
    [
        ('official', 'detr-r50-e632da11.pth', {}, 'ResNet'),
        ('official', 'detr-r50-dc5-f0fb7ef5.pth', {}, 'mmdet_detr.ResNetDC5'),
        ('official', 'weights.pth', {'dilated': True}, 'mmdet_detr.ResNetDC5'),
        ('official', 'dc5.pth', {'dilated': False}, 'ResNet'),
        ('mmdet2_12', 'weights.pth', {}, 'ResNet'),
    ],
)
def test_config_of_a_published_model(name, path, facts, backbone):
    config = packaged(getattr(foreign, name), R50, path, **facts)
    assert config.model.backbone.type == backbone
    assert config.model.backbone.depth == 50
    assert config.model.bbox_head.num_classes == 80
    resizes = [step for step in config.test_dataloader.dataset.pipeline if 'Resize' in step['type']]
    assert [step['type'] for step in resizes] == ['Resize' if name == 'mmdet2_12' else 'mmdet_detr.ShortestSideResize']


def test_config_of_a_published_architecture_with_other_classes_and_queries():
    config = packaged(foreign.official, replace(R50, num_classes=2, queries=30), classes=('cat', 'dog'))
    assert config.model.bbox_head.num_classes == 2
    assert config.model.neck.num_queries == 30
    assert config.test_dataloader.dataset.metainfo == {'classes': ('cat', 'dog')}
    config = packaged(foreign.official, replace(R50, num_classes=3))
    assert config.test_dataloader.dataset.metainfo == {'classes': ('class 0', 'class 1', 'class 2')}


def test_a_backbone_or_a_part_is_no_detector():
    with torch.device('meta'):
        weights = foreign.official(R50).state_dict
    for start, message in (
        ('class_embed', 'has no bbox_head.class_embed'),
        ('transformer', 'no checkpoint of a DETR'),
    ):
        part = {name: value for name, value in weights.items() if not name.startswith(start)}
        with pytest.raises(CheckpointError, match=message):
            _packaged_config(with_source({'state_dict': part}, Source('weights.pth')), 'weights.pth')


def test_official_weights_alone(tmp_path, images):
    """All of it, for the smallest of the packaged architectures: names and boxes are those of mmdet."""
    sizes = Sizes(18, 64, 256, 8, 2048, 6, 6, 100, 91)
    torch.save({'model': foreign.official(sizes).state_dict}, tmp_path / 'detr.pth')
    detector = mmdet_detr.load(tmp_path / 'detr.pth', device='cpu')
    assert detector.classes == COCO_NAMES
    path = str(images / 'colour.png')
    model = init_detector(ROOT / 'configs/detr/detr_r18_8x2_500e_coco.py', str(tmp_path / 'detr.pth'), device='cpu')
    expected = inference_detector(model, path).pred_instances
    assert np.allclose(detector(path, 0).boxes, expected.bboxes.numpy(), atol=1e-6)
