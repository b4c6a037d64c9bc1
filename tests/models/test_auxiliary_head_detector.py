import copy

import pytest
import torch
from helpers import padded_batch, tiny_detr_config
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.runner import load_checkpoint, save_checkpoint

from mmdet_detr.checkpoints.convert import convert_checkpoint
from mmdet_detr.errors import ConfigError

NUM_CLASSES = 5
TRANSFORMER = {**tiny_detr_config().neck, 'in_channels': 24, 'levels': 1}
DETR_HEAD = {**tiny_detr_config().bbox_head, 'transformer': TRANSFORMER, 'test_cfg': {'max_per_img': 7}}
FCOS_HEAD = {
    'type': 'FCOSHead',
    'num_classes': NUM_CLASSES,
    'in_channels': 24,
    'stacked_convs': 1,
    'feat_channels': 24,
    'norm_cfg': None,
}
FPN = {'type': 'FPN', 'in_channels': [16, 32, 64], 'out_channels': 24, 'num_outs': 5}
FCOS = {
    'type': 'FCOS',
    'data_preprocessor': {'type': 'DetDataPreprocessor', 'mean': [1.0] * 3, 'std': [2.0] * 3},
    'backbone': {'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'out_indices': (1, 2, 3), 'norm_eval': True},
    'neck': FPN,
    'bbox_head': FCOS_HEAD,
}


def with_detr(**settings) -> ConfigDict:
    """FCOS with an auxiliary DETR head."""
    return Config(
        {'type': 'mmdet_detr.AuxiliaryHeadDetector', 'detector': FCOS, 'aux_head': DETR_HEAD, **settings}
    )._cfg_dict


def detr_with_fcos(**settings) -> ConfigDict:
    """DETR with an auxiliary FCOS head on an FPN."""
    detector = tiny_detr_config()
    detector.backbone.out_indices = (1, 2, 3)
    parts = {'detector': detector._cfg_dict, 'aux_neck': FPN, 'aux_head': FCOS_HEAD}
    return Config({'type': 'mmdet_detr.AuxiliaryHeadDetector', **parts, **settings})._cfg_dict


@pytest.mark.parametrize('config', [with_detr, detr_with_fcos])
def test_losses_are_those_of_both_heads(config):
    model = MODELS.build(config(aux_loss_weight=0.5))
    images, samples = padded_batch(NUM_CLASSES)
    losses = model(images, samples, mode='loss')
    feats = model.aux_neck(model.detector.extract_feat(images))
    expected = dict(model.detector.loss(images, samples))
    for name, value in model.aux_head.loss(feats, samples).items():
        expected[f'aux.{name}'] = value * 0.5 if 'loss' in name else value
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda m, n=name: f'{n}: {m}')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_features_are_computed_once():
    model = MODELS.build(with_detr())
    calls = []
    model.detector.backbone.register_forward_hook(lambda *_: calls.append('backbone'))
    images, samples = padded_batch(NUM_CLASSES)
    model(images, samples, mode='loss')
    assert calls == ['backbone']
    changed = model.detector.extract_feat(images + 1)
    assert not torch.equal(changed[0], model.detector.extract_feat(images)[0])  # the detector's own method is back


def test_features_are_its_own_again_after_an_error(monkeypatch):
    model = MODELS.build(with_detr())
    monkeypatch.setattr(model.detector.bbox_head, 'loss', lambda *_: 1 / 0)
    images, samples = padded_batch(NUM_CLASSES)
    with pytest.raises(ZeroDivisionError):
        model(images, samples, mode='loss')
    assert 'extract_feat' not in vars(model.detector)


def test_either_head_predicts():
    images, samples = padded_batch(NUM_CLASSES)
    model = MODELS.build(with_detr(predict_by='aux_head')).eval()
    expected = model.aux_head.predict(model.extract_feat(images), samples)
    for sample, result in zip(model(images, copy.deepcopy(samples), mode='predict'), expected, strict=True):
        assert len(sample.pred_instances) == 7
        assert torch.equal(sample.pred_instances.bboxes, result.bboxes)
    logits, boxes = model(images, samples, mode='tensor')
    assert (logits.shape, boxes.shape) == ((3, 3, 12, NUM_CLASSES + 1), (3, 3, 12, 4))

    model = MODELS.build(detr_with_fcos()).eval()  # predict_by is 'detector' by default
    expected = model.detector.predict(images, copy.deepcopy(samples))
    for sample, result in zip(model(images, samples, mode='predict'), expected, strict=True):
        assert len(sample.pred_instances) == 12
        assert torch.equal(sample.pred_instances.bboxes, result.pred_instances.bboxes)
    assert model(images, samples, mode='tensor')[0].shape == (3, 3, 12, NUM_CLASSES + 1)


@pytest.mark.operators
@pytest.mark.parametrize('part', ['detector', 'aux_head'])
def test_a_head_with_nms_predicts(part):
    config = with_detr() if part == 'detector' else detr_with_fcos()
    nms = {'nms_pre': 100, 'score_thr': 0.0, 'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'max_per_img': 9}
    config[part]['test_cfg'] = ConfigDict(nms)
    model = MODELS.build({**config, 'predict_by': part}).eval()
    images, samples = padded_batch(NUM_CLASSES)
    assert [len(sample.pred_instances) for sample in model(images, samples, mode='predict')] == [9, 9, 9]


def test_predict_by_must_name_a_head():
    with pytest.raises(ConfigError, match=r"predict_by must be one of \('detector', 'aux_head'\), got 'both'"):
        MODELS.build(with_detr(predict_by='both'))


def test_predicting_head_needs_its_test_cfg():
    with pytest.raises(ConfigError, match=r"predict_by='aux_head' needs a test_cfg in aux_head, a FCOSHead"):
        MODELS.build(detr_with_fcos(predict_by='aux_head'))


def test_detectors_preprocessor_is_used():
    model = MODELS.build(with_detr())
    data = {'inputs': [torch.full((3, 32, 32), 5, dtype=torch.uint8)], 'data_samples': None}
    assert model.data_preprocessor(data)['inputs'].unique().tolist() == [2.0]


def test_takes_a_checkpoint_of_the_detector_and_gives_one_back(tmp_path):
    alone = MODELS.build(ConfigDict(copy.deepcopy(FCOS)))
    save_checkpoint({'state_dict': alone.state_dict()}, str(tmp_path / 'fcos.pth'))
    model = MODELS.build(with_detr())
    load_checkpoint(model, str(tmp_path / 'fcos.pth'))
    for name, value in alone.state_dict().items():
        assert torch.equal(model.detector.state_dict()[name], value), name

    model = MODELS.build(with_detr())
    save_checkpoint({'state_dict': model.state_dict()}, str(tmp_path / 'both.pth'))
    again = MODELS.build(with_detr())
    load_checkpoint(again, str(tmp_path / 'both.pth'), strict=True)
    trained = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'both.pth'), 'prefix': 'detector.'}
    alone = MODELS.build(ConfigDict({**copy.deepcopy(FCOS), 'init_cfg': trained}))
    alone.init_weights()
    for name, value in alone.state_dict().items():
        assert torch.equal(model.state_dict()[f'detector.{name}'], value), name
        assert torch.equal(again.state_dict()[f'detector.{name}'], value), name


@pytest.mark.parametrize('prefix', ['', 'detector.'])
def test_detr_inside_takes_its_checkpoint_with_names_of_classes(tmp_path, prefix):
    """A DETR inside maps the rows of its classifier by class names, as a DETR alone does."""
    names = ('ant', 'bee', 'cat', 'dog', 'eel')
    whole = MODELS.build(detr_with_fcos())
    weights = (whole if prefix else whole.detector).state_dict()
    meta = {'dataset_meta': {'classes': names}}
    save_checkpoint({'state_dict': weights, 'meta': meta}, str(tmp_path / 'detr.pth'))
    model = MODELS.build(detr_with_fcos())
    model.dataset_meta = {'classes': names[::-1]}  # ClassNamesHook does this.
    load_checkpoint(model, str(tmp_path / 'detr.pth'))
    rows = whole.detector.bbox_head.class_embed.weight
    assert torch.equal(model.detector.bbox_head.class_embed.weight, rows[[4, 3, 2, 1, 0, 5]])


def test_detr_takes_its_part_of_a_checkpoint_with_an_auxiliary_head(tmp_path):
    """convert_checkpoint does the same, so that the auxiliary head can be dropped after training."""
    both = MODELS.build(detr_with_fcos())
    save_checkpoint({'state_dict': both.state_dict()}, str(tmp_path / 'both.pth'))
    convert_checkpoint(tmp_path / 'both.pth', tmp_path / 'alone.pth', 'mmdet_detr')
    for file in ('both.pth', 'alone.pth'):
        config = tiny_detr_config()
        alone = MODELS.build(config)
        load_checkpoint(alone, str(tmp_path / file), strict=True)
        for name, value in alone.state_dict().items():
            assert torch.equal(both.state_dict()[f'detector.{name}'], value), name


def test_several_auxiliary_heads():
    inner = with_detr()
    outer = Config({'type': 'mmdet_detr.AuxiliaryHeadDetector', 'detector': inner, 'aux_head': DETR_HEAD})._cfg_dict
    model = MODELS.build(outer)
    images, samples = padded_batch(NUM_CLASSES)
    losses = model(images, samples, mode='loss')
    inner_losses = model.detector(images, samples, mode='loss').keys()
    own = model.aux_head.loss(model.extract_feat(images), samples).keys()
    assert losses.keys() == inner_losses | {f'aux.aux.{name}' for name in own}
    assert len(losses) == len(inner_losses) + len(own)


def test_checkpoints_of_nested_detectors(tmp_path):
    """Checkpoints of the detector alone, with one auxiliary head and with both all load."""
    outer = {'type': 'mmdet_detr.AuxiliaryHeadDetector', 'detector': detr_with_fcos(), 'aux_head': DETR_HEAD}
    outer['aux_neck'] = FPN
    whole = MODELS.build(ConfigDict(copy.deepcopy(outer)))
    for depth, part in enumerate((whole, whole.detector, whole.detector.detector)):
        save_checkpoint({'state_dict': part.state_dict()}, str(tmp_path / 'part.pth'))
        again = MODELS.build(ConfigDict(copy.deepcopy(outer)))
        load_checkpoint(again, str(tmp_path / 'part.pth'))
        for name, value in part.state_dict().items():
            assert torch.equal(again.state_dict()['detector.' * depth + name], value), name
        alone = MODELS.build(tiny_detr_config())
        load_checkpoint(alone, str(tmp_path / 'part.pth'), strict=True)
        assert torch.equal(alone.neck.query_embed.weight, whole.detector.detector.neck.query_embed.weight)


def test_init_detector_of_mmdet(tmp_path):
    """init_detector reads model.backbone of the config, unless it gets cfg_options."""
    loader = {'dataset': {'type': 'CocoDataset'}}
    text = f'model = {detr_with_fcos().to_dict()!r}\ntest_dataloader = {loader!r}\n'
    (tmp_path / 'config.py').write_text(text)
    model = init_detector(str(tmp_path / 'config.py'), device='cpu', cfg_options={})
    assert type(model.detector).__name__ == 'DETR'
