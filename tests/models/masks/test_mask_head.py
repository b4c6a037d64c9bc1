"""The mask head against the official order of work."""

import copy

import numpy as np
import pytest
import torch
from helpers import ROOT
from masks import NUM_CLASSES, NUM_THINGS, batch, built, masks_config
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import Config
from plain_masks import PlainMaskHead, Sizes, plain_instance_masks, plain_mask_losses, plain_panoptic
from torch import Tensor, nn

from mmdet_detr.errors import ConfigError
from mmdet_detr.models.masks import mask_head, mask_loss, resize

LOW = {'max_per_img': 12, 'panoptic': {'score_thr': 0.5}}
SIZES = {
    'padded': ([(64, 97), (91, 70)], [3, 2]),
    'odd sizes': ([(61, 83), (61, 83)], [2, 4]),
    'single': ([(75, 50)], [5]),
    'one without objects': ([(64, 64), (50, 64)], [0, 3]),
    'more objects than queries': ([(64, 64)], [15]),
}


def plain(model: nn.Module) -> PlainMaskHead:
    head = PlainMaskHead(model.mask_head.in_channels, 128, 8)
    head.load_state_dict(model.mask_head.state_dict())
    return head.to(next(model.parameters()).dtype)


def plain_logits(model: nn.Module, images: Tensor, samples: list) -> Tensor:
    feats, output = model.forward_transformer(images, samples)
    h, w = output.grid_sizes[0]
    source, memory = (x.transpose(1, 2).unflatten(2, (h, w)) for x in (output.source, output.memory))
    padding = torch.zeros(len(images), h * w, dtype=torch.bool) if output.mask is None else ~output.mask
    return plain(model)(source, memory, output.hidden[-1], padding.view(-1, h, w), list(feats[:3]))


@pytest.mark.parametrize('name', SIZES)
def test_logits_of_all_queries(name):
    model = built(masks_config()).double().eval()
    images, samples = batch(*SIZES[name])
    got = model(images.double(), samples, mode='tensor')
    expected = plain_logits(model, images.double(), samples)
    assert got[2].shape == (len(images), 12, -(-images.shape[2] // 4), -(-images.shape[3] // 4))
    torch.testing.assert_close(got[2], expected, rtol=1e-9, atol=1e-9)
    boxes_only = copy.deepcopy(model)
    boxes_only.mask_head = None
    for with_masks, without in zip(got, boxes_only(images.double(), samples, mode='tensor'), strict=False):
        assert torch.equal(with_masks, without)


@pytest.mark.parametrize('name', SIZES)
def test_losses_and_gradients(name, monkeypatch):
    monkeypatch.setattr(mask_loss, 'PIXELS_AT_ONCE', 2 * 70 * 70)  # so that masks are scored in several parts
    model = built(masks_config()).double()
    images, samples = batch(*SIZES[name])
    images = images.double()
    for sample in samples:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
    losses = model(images, copy.deepcopy(samples), mode='loss')
    (losses['loss_mask'] + 2 * losses['loss_dice']).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    reference = copy.deepcopy(model)
    reference.zero_grad()
    feats, output = reference.forward_transformer(images, samples)
    _, matches = reference.bbox_head.loss_and_matches(output, samples)
    h, w = output.grid_sizes[0]
    source, memory = (x.transpose(1, 2).unflatten(2, (h, w)) for x in (output.source, output.memory))
    padding = torch.zeros(len(images), h * w, dtype=torch.bool) if output.mask is None else ~output.mask
    head = plain(reference)
    logits = head(source, memory, output.hidden[-1], padding.view(-1, h, w), list(feats[:3]))
    pairs = len(matches.queries) // 3
    queries = matches.queries[-pairs:] - 2 * len(images) * 12
    objects = matches.targets[-pairs:]
    width = matches.valid.shape[1]
    masks = [
        torch.from_numpy(sample.gt_instances.masks.masks)[objects[objects // width == i] % width]
        for i, sample in enumerate(samples)
    ]
    size = tuple(images.shape[2:])
    expected = plain_mask_losses(logits.flatten(0, 1)[queries], masks, size, float(max(1, matches.valid.sum())))
    for loss in ('loss_mask', 'loss_dice'):
        assert losses[loss].item() == pytest.approx(expected[loss].item(), rel=1e-9)
    (expected['loss_mask'] + 2 * expected['loss_dice']).backward()
    for parameter_name, parameter in reference.named_parameters():
        if parameter_name.startswith('mask_head'):
            parameter = head.get_parameter(parameter_name.removeprefix('mask_head.'))
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[parameter_name], parameter.grad, rtol=1e-6, atol=1e-10)


def test_a_batch_without_objects_gives_every_parameter_a_gradient():
    model = built(masks_config())
    images, samples = batch([(64, 64), (50, 64)], [0, 0])
    losses = model(images, samples, mode='loss')
    assert losses['loss_mask'] == losses['loss_dice'] == 0
    sum(loss for name, loss in losses.items() if 'loss' in name).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
    assert all((parameter.grad == 0).all() for parameter in model.mask_head.parameters())


def test_a_frozen_detector_trains_the_mask_head_alone():
    model = built(masks_config(freeze_detector=True))
    trainable = {name.split('.')[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {'mask_head'}
    images, samples = batch(*SIZES['padded'])
    losses = model(images, copy.deepcopy(samples), mode='loss')
    free = built(masks_config())(images, copy.deepcopy(samples), mode='loss')
    for name, loss in free.items():
        torch.testing.assert_close(losses[name], loss.detach(), rtol=1e-5, atol=1e-6)
        assert losses[name].requires_grad == (name in ('loss_mask', 'loss_dice'))
    sum(loss for name, loss in losses.items() if 'loss' in name).backward()
    assert all(parameter.grad is not None for parameter in model.mask_head.parameters())


def test_a_frozen_detector_without_weights_is_named_once(monkeypatch):
    said = []
    monkeypatch.setattr('mmdet_detr.models.detr.warn', said.append)
    images, samples = batch(*SIZES['single'])
    model = built(masks_config(freeze_detector=True))
    for _ in range(2):
        model(images, copy.deepcopy(samples), mode='loss')
    assert len(said) == 1
    assert 'give load_from' in said[0]
    loaded = built(masks_config(freeze_detector=True))
    loaded.load_state_dict(model.state_dict())
    loaded(images, samples, mode='loss')
    assert len(said) == 1
    with_backbone = built(masks_config(freeze_detector=True))
    backbone = {name: value for name, value in model.state_dict().items() if name.startswith('backbone.')}
    with_backbone.load_state_dict(backbone, strict=False)
    with_backbone(images, samples, mode='loss')
    assert len(said) == 2


def test_nothing_to_train_is_an_error():
    config = masks_config(freeze_detector=True)
    config.mask_head = None
    with pytest.raises(ConfigError, match='nothing to train'):
        MODELS.build(config)


def test_panoptic_settings_without_a_mask_head_are_an_error():
    config = masks_config(test_cfg=LOW)
    config.mask_head = None
    with pytest.raises(ConfigError, match='panoptic is for a mask_head'):
        MODELS.build(config)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'mask_head.embed_dims': 100}, 'multiple of num_heads'),
        ({'mask_head.in_channels': 8}, r'in_channels=8\) is one number'),
        ({'mask_head.embed_dims': 8}, 'at least 16 for 3 levels'),
        ({'mask_head.num_things_classes': -1}, 'no number of classes'),
        ({'mask_head.groups': 0}, 'groups=0. needs at least one group'),
        ({'mask_head.num_things_classes': 6}, 'in a model of 5 classes: None makes all of them things'),
        ({'test_cfg.panoptic': {'score_threshold': 0.3}}, 'has score_thr, min_area, and not score_threshold'),
    ],
)
def test_numbers_that_do_not_fit_are_an_error(options, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(masks_config(**options))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'backbone.out_indices': (1, 2, 3)}, r'got \[16, 32, 64\] channels'),
        ({'neck.levels': (2, 3), 'neck.in_channels': (32, 64)}, 'one level, not 2'),
        ({'mask_head.embed_dims': 64}, 'has a transformer of width 128'),
    ],
)
def test_levels_that_do_not_fit_are_an_error(options, message):
    config = masks_config(**options)
    images, samples = batch(*SIZES['single'])
    with pytest.raises(ConfigError, match=message):
        built(config)(images, samples, mode='loss')


def predicted(model: nn.Module, images: Tensor, samples: list, rescale: bool = True) -> list:
    with torch.no_grad():
        return model.predict(images, copy.deepcopy(samples), rescale=rescale)


@torch.no_grad()
def certain(model: nn.Module, images: Tensor, samples: list) -> nn.Module:
    """Tell the queries apart, which are alike without training: other classes, mostly certain, and other masks."""
    hidden = model.forward_transformer(images, samples)[1].hidden[-1].flatten(0, 1)
    spread = (hidden - hidden.mean(0)).std()
    for layer, scale in ((model.bbox_head.class_embed, 2.0), (model.mask_head.bbox_attention.q_linear, 1.0)):
        nn.init.normal_(layer.weight, 0, scale / spread / 10)
        layer.bias.copy_(-layer.weight @ hidden.mean(0))
    return model


@pytest.mark.parametrize('name', SIZES)
@pytest.mark.parametrize('rescale', [True, False])
def test_predictions(name, rescale, monkeypatch):
    """Those of a batch are those of its images one by one, without padding."""
    monkeypatch.setattr(mask_head, 'QUERIES_AT_ONCE', 3)
    monkeypatch.setattr(resize, 'MASKS_AT_ONCE', 2)
    images, samples = batch(*SIZES[name], scale=0.63)
    model = certain(built(masks_config(test_cfg=LOW)).eval(), images, samples)
    results = predicted(model, images, samples, rescale)
    found = 0
    for image, result, sample in zip(images, results, samples, strict=True):
        height, width = sample.img_shape
        alone, sample = image[None, :, :height, :width], copy.deepcopy(sample)
        sample.set_metainfo({'batch_input_shape': sample.img_shape})
        with torch.no_grad():
            [masks] = plain_logits(model, alone, [sample])
            logits, _, _ = model(alone, [sample], mode='tensor')
        sizes = Sizes(sample.img_shape, sample.img_shape, sample.ori_shape if rescale else sample.img_shape)
        probabilities = logits[-1, 0].softmax(-1)
        scores, labels = probabilities[:, :-1].max(-1)
        order = scores.sort(descending=True).indices
        order = order[labels[order] < NUM_THINGS]
        assert result.pred_instances.labels.tolist() == labels[order].tolist()
        expected = plain_instance_masks(masks[order], sizes)
        assert result.pred_instances.masks.shape == expected.shape
        assert (result.pred_instances.masks != expected).sum() <= 1e-4 * expected.numel()  # logits of 0 to noise

        scores, labels = probabilities.max(-1)
        some = labels < NUM_CLASSES
        ids, segments = plain_panoptic(
            masks[some], scores[some], labels[some], set(range(NUM_THINGS)), sizes, threshold=0.5
        )
        found += len(segments)
        values, counts = [], {}
        for segment in segments:
            counts[segment['label']] = counts.get(segment['label'], 0) + 1
            number = counts[segment['label']] if segment['isthing'] else 0
            values.append(segment['label'] + 1000 * number)
        assert len(set(values)) == len(values)
        expected = torch.tensor(values or [NUM_CLASSES])[torch.from_numpy(ids).long()]
        assert (result.pred_panoptic_seg.sem_seg[0] != expected).float().mean() < 1e-3
    assert found > 1


def test_data_without_masks_are_an_error():
    images, samples = batch(*SIZES['single'])
    del samples[0].gt_instances.masks
    with pytest.raises(ConfigError, match='the data have none'):
        built(masks_config())(images, samples, mode='loss')


@pytest.mark.parametrize('size', [(20, 20), (200, 200)])
def test_masks_of_another_size_than_the_image_are_an_error(size):
    images, samples = batch(*SIZES['padded'])
    count = len(samples[0].gt_instances)
    samples[0].gt_instances.masks = BitmapMasks(np.ones((count, *size), np.uint8), *size)
    with pytest.raises(ConfigError, match=f'masks of {size[0]} x {size[1]} pixels of an image of'):
        built(masks_config())(images, samples, mode='loss')


def test_masks_may_be_padded_with_their_images():
    model = built(masks_config())
    images, samples = batch(*SIZES['padded'])
    expected = model(images, copy.deepcopy(samples), mode='loss')
    for sample in samples:
        masks = sample.gt_instances.pop('masks')
        sample.gt_instances.masks = masks.pad(sample.batch_input_shape)
    losses = model(images, samples, mode='loss')
    for name in ('loss_mask', 'loss_dice'):
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-5, atol=1e-6)


def test_polygons_are_as_good_as_bitmaps():
    model = built(masks_config())
    images, samples = batch(*SIZES['single'])
    h, w = samples[0].img_shape
    corners = [[x1, y1, x2, y1, x2, y2, x1, y2] for x1, y1, x2, y2 in samples[0].gt_instances.bboxes.tolist()]
    masks = PolygonMasks([[np.array(polygon)] for polygon in corners], h, w)
    losses = []
    for given in (masks, BitmapMasks(masks.to_ndarray().astype(np.uint8), h, w)):
        samples[0].gt_instances.masks = given
        losses.append(model(images, copy.deepcopy(samples), mode='loss')['loss_dice'])
    assert losses[0] == losses[1] > 0


def test_bfloat16_and_recomputed_layers():
    images, samples = batch(*SIZES['padded'])
    expected = built(masks_config())(images, copy.deepcopy(samples), mode='loss')
    recomputed = built(masks_config(**{'neck.with_cp': True}))(images, copy.deepcopy(samples), mode='loss')
    torch.testing.assert_close(recomputed['loss_mask'], expected['loss_mask'])
    model = built(masks_config())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(images, copy.deepcopy(samples), mode='loss')
        results = predicted(model.eval(), images, samples)
    assert losses['loss_mask'].dtype == torch.float32
    torch.testing.assert_close(losses['loss_dice'], expected['loss_dice'], rtol=0.05, atol=0)
    assert results[0].pred_instances.masks.dtype == torch.bool


def test_a_sigmoid_loss():
    """A query can be detected as several classes, with one mask, and has no output for no object."""
    focal = {'type': 'FocalLoss', 'use_sigmoid': True, 'gamma': 2.0, 'alpha': 0.25, 'loss_weight': 2.0}
    costs = [{'type': 'FocalLossCost', 'weight': 2.0}]
    assigner = {'type': 'mmdet_detr.HungarianAssigner', 'match_costs': costs}
    loss = {'type': 'mmdet_detr.BipartiteMatchLoss', 'loss_cls': focal, 'assigner': assigner}
    test_cfg = {'max_per_img': 30, 'panoptic': {'score_thr': 0.3}}
    model = built(masks_config(**{'bbox_head.loss': loss, 'test_cfg': test_cfg}))
    images, samples = batch(*SIZES['padded'])
    assert model(images, copy.deepcopy(samples), mode='loss')['loss_mask'] > 0
    for result in predicted(model.eval(), images, samples):
        assert len(result.pred_instances) > 12
        assert len(result.pred_instances) == len(result.pred_instances.masks)
        assert (result.pred_panoptic_seg.sem_seg % 1000 < NUM_CLASSES).all()


def test_on_the_levels_of_a_pyramid():
    config = masks_config(
        **{
            'neck': [
                {'type': 'FPN', 'in_channels': [8, 16, 32, 64], 'out_channels': 24, 'num_outs': 4},
                {**masks_config().neck, 'in_channels': 24, 'levels': -1},
            ],
            'mask_head.in_channels': (24, 24, 24),
        }
    )
    model = built(config)
    images, samples = batch(*SIZES['padded'])
    losses = model(images, copy.deepcopy(samples), mode='loss')
    sum(loss for name, loss in losses.items() if 'loss' in name).backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    for result, sample in zip(predicted(model.eval(), images, samples), samples, strict=True):
        assert result.pred_panoptic_seg.sem_seg.shape == (1, *sample.ori_shape)


def test_instance_segmentation_has_no_panoptic_map():
    model = built(masks_config(**{'mask_head.num_things_classes': None})).eval()
    images, samples = batch(*SIZES['padded'])
    for result, sample in zip(predicted(model, images, samples), samples, strict=True):
        assert 'pred_panoptic_seg' not in result
        assert result.pred_instances.masks.shape == (12, *sample.ori_shape)
        assert 'queries' not in result.pred_instances


def test_nothing_found():
    model = built(masks_config(test_cfg={'score_thr': 0.9999, 'panoptic': {'score_thr': 0.9999}})).eval()
    images, samples = batch(*SIZES['padded'])
    for result, sample in zip(predicted(model, images, samples), samples, strict=True):
        assert result.pred_instances.masks.shape == (0, *sample.ori_shape)
        assert (result.pred_panoptic_seg.sem_seg == NUM_CLASSES).all()


def test_parameters_of_the_published_model():
    """PANOPTIC: 42,676,888 are trained with 250 classes."""
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py').model
    config.backbone.out_indices = (0, 1, 2, 3)
    config.backbone.init_cfg = None
    config.bbox_head.num_classes = 250
    config.mask_head = {'type': 'mmdet_detr.MaskHead'}
    model = MODELS.build(config)
    assert sum(p.numel() for p in model.mask_head.parameters()) == 1_333_657
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 42_676_888
