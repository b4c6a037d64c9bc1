"""DETR heads on other models of mmdet: every config in configs/mixed, and the override that docs/mixing.md shows."""

import importlib.util
import math

import pytest
import torch
from helpers import ROOT, random_sample
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint, save_checkpoint
from torch import Tensor

from mmdet_detr.configs import forget_pretrained
from mmdet_detr.models import AuxiliaryHeadDetector, DETRHead

PADDED = (128, 160)
SIZES = (PADDED, (70, 160), (128, 65))


def marks(stem: str) -> list[pytest.MarkDecorator]:
    if stem.startswith('faster-rcnn'):
        return [pytest.mark.operators]
    missing = [name for name in ('mmpretrain', 'torchvision') if importlib.util.find_spec(name) is None]
    return [pytest.mark.skipif('convnext' in stem and bool(missing), reason=f'needs {" and ".join(missing)}')]


MIXED = [
    pytest.param(path, id=path.stem, marks=marks(path.stem)) for path in sorted((ROOT / 'configs/mixed').glob('*.py'))
]


def load(path) -> Config:
    config = Config.fromfile(path)
    forget_pretrained(config.model)
    return config


def built(config: Config, seed: int = 0) -> BaseDetector:
    torch.manual_seed(seed)
    model = MODELS.build(config.model)
    model.init_weights()
    if isinstance(model, AuxiliaryHeadDetector) and isinstance(model.aux_head, DETRHead):
        model.predict_by = 'aux_head'  # that of the other head needs NMS
    return model


def padded_batch() -> tuple[Tensor, list[DetDataSample]]:
    samples = [random_sample(size, PADDED, count, 80) for size, count in zip(SIZES, (3, 0, 2), strict=True)]
    images = torch.randn(3, 3, *PADDED)
    for image, (height, width) in zip(images, SIZES, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images, samples


def detr_part(model: BaseDetector):
    """What reads the feature maps: (feature maps, samples) -> logits, boxes."""
    if isinstance(model, AuxiliaryHeadDetector):
        return model.aux_head if isinstance(model.aux_head, DETRHead) else detr_part(model.detector)
    if model.bbox_head.transformer is None:
        return lambda feats, samples: model.bbox_head(model.neck(feats, samples))
    return model.bbox_head


def test_all_kinds_are_there():
    named = ' '.join(path.values[0].stem for path in MIXED)
    families = 'retinanet_r50 fcos_r50 atss yolof rtmdet swin pvtv2 convnext regnetx res2net hrnet mobilenetv2'
    for family in f'{families} aux-detr aux-fcos faster-rcnn'.split():
        assert family in named


@pytest.mark.parametrize('path', MIXED)
def test_mixed(path, tmp_path):
    config = load(path)
    config.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == config.to_dict()
    model = built(config).train()
    images, samples = padded_batch()

    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    losses, log = model.parse_losses(model(images, samples, mode='loss'))
    assert all(value.isfinite() for value in log.values())
    losses.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f'{name} has no gradient'
            assert parameter.grad.isfinite().all(), name
    wrapper.optimizer.step()

    model.eval()
    before = model(images, samples, mode='predict')
    results = [sample.pred_instances.clone() for sample in before]
    for result, size in zip(results, SIZES, strict=True):
        assert len(result) > 0
        assert result.bboxes.isfinite().all()
        assert (result.bboxes >= 0).all()
        assert (result.bboxes <= torch.tensor([size[1], size[0]] * 2)).all()

    save_checkpoint({'state_dict': model.state_dict()}, str(tmp_path / 'model.pth'))
    again = built(config, seed=1).eval()
    load_checkpoint(again, str(tmp_path / 'model.pth'), strict=True)
    for result, sample in zip(results, again(images, samples, mode='predict'), strict=True):
        assert torch.equal(result.bboxes, sample.pred_instances.bboxes)
        assert torch.equal(result.scores, sample.pred_instances.scores)

    with torch.no_grad():
        feats = model.extract_feat(images)
        changed = [with_noise_in_padding(x, samples) for x in feats]
        assert not all(torch.equal(a, b) for a, b in zip(feats, changed, strict=True))
        for a, b in zip(detr_part(model)(feats, samples), detr_part(model)(changed, samples), strict=True):
            assert torch.equal(a, b)


@pytest.mark.operators
@pytest.mark.parametrize('path', [path for path in MIXED if '_aux-' in path.id])
def test_head_with_nms_of_an_auxiliary_config(path):
    config = load(path)
    model = built(config).eval()
    model.predict_by = {'aux_head': 'detector', 'detector': 'aux_head'}[model.predict_by]
    part = model.detector if model.predict_by == 'detector' else model
    for head in ('bbox_head', 'aux_head', 'roi_head'):
        if hasattr(part, head) and hasattr(getattr(part, head), 'test_cfg'):
            getattr(part, head).test_cfg.score_thr = 0.0
    images, samples = padded_batch()
    results = [sample.pred_instances for sample in model(images, samples, mode='predict')]
    assert all(len(result) > 0 and result.bboxes.isfinite().all() for result in results)


FAMILIES = {  # channels of the level that is read
    'autoassign/autoassign_r50-caffe_fpn_1x_coco.py': 256,
    'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py': 256,
    'ddod/ddod_r50_fpn_1x_coco.py': 256,
    'efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py': 256,
    'foveabox/fovea_r50_fpn_4xb4-1x_coco.py': 256,
    'fsaf/fsaf_r50_fpn_1x_coco.py': 256,
    'gfl/gfl_r50_fpn_1x_coco.py': 256,
    'paa/paa_r50_fpn_1x_coco.py': 256,
    'reppoints/reppoints-moment_r50_fpn_1x_coco.py': 256,
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py': 512,
    'tood/tood_r50_fpn_1x_coco.py': 256,
    'yolox/yolox_s_8xb8-300e_coco.py': 128,
}


@pytest.mark.parametrize(('family', 'channels'), FAMILIES.items(), ids=[family.split('/')[0] for family in FAMILIES])
def test_one_override_on_any_single_stage_detector(family, channels, tmp_path):
    """What was written for the replaced head stays in train_cfg and test_cfg."""
    config = tmp_path / 'mine.py'
    config.write_text(
        f"_base_ = 'mmdet::{family}'\n"
        f"neck = dict(type='mmdet_detr.TransformerNeck', in_channels={channels}, levels=2, num_decoder_layers=2)\n"
        "head = dict(_delete_=True, type='mmdet_detr.DETRHead', num_classes=7, transformer=neck)\n"
        'model = dict(bbox_head=head)\n'
    )
    config = load(config)
    config.model.data_preprocessor.batch_augments = None  # sizes of one's own
    model = built(config).train()
    images, samples = padded_batch()
    for sample in samples:
        sample.gt_instances.labels %= 7
    _, log = model.parse_losses(model(images, samples, mode='loss'))
    assert {name for name in log if 'loss' in name} == {
        'loss',
        *(f'{layer}loss_{term}' for layer in ('', 'd0.') for term in ('cls', 'bbox', 'iou')),
    }
    assert all(value.isfinite() for value in log.values())
    model.bbox_head.test_cfg['score_thr'] = 0
    results = model.eval()(images, samples, mode='predict')
    assert all(len(sample.pred_instances) == 100 for sample in results)


def with_noise_in_padding(x: Tensor, samples: list[DetDataSample]) -> Tensor:
    """Change the cells whose top left pixel lies in the padding."""
    x = x.clone()
    for image, sample in zip(x, samples, strict=True):
        rows, columns = (
            math.ceil(length * cells / padded)
            for length, cells, padded in zip(sample.img_shape, x.shape[2:], sample.batch_input_shape, strict=True)
        )
        image[:, rows:] = torch.randn(()) * 100
        image[:, :, columns:] = torch.randn(()) * 100
    return x
