"""Our assigner in mmdet's other models: one training step each, with the losses that mmdet's own assigner gives."""

import copy

import pytest
import torch
from helpers import random_sample
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.structures import PixelData

from mmdet_detr.configs import dicts_in
from mmdet_detr.models import HungarianAssigner

OTHERS = [
    'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    pytest.param('deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', marks=pytest.mark.operators),
    pytest.param('dino/dino-4scale_r50_8xb2-12e_coco.py', marks=pytest.mark.operators),
    pytest.param('ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py', marks=pytest.mark.operators),
    'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
    pytest.param('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', marks=pytest.mark.operators),
]
IMAGE = (96, 128)


def small(config: str) -> ConfigDict:
    """The model of one of mmdet's configs, with fewer layers and queries, nothing downloaded and no dropout."""
    model = get_config(f'mmdet::{config}').model
    model.backbone.init_cfg = None
    shrink(model)
    return model


def shrink(model: ConfigDict) -> None:
    for part in dicts_in(model):
        for name, value in part.items():
            if name == 'num_layers' and isinstance(value, int) and value > 2:
                part[name] = 2
            elif name in ('dropout', 'attn_drop', 'proj_drop', 'ffn_drop', 'drop_prob'):
                part[name] = 0.0
            elif name == 'num_queries':
                part[name] = 30


def samples_with_masks(num_classes: int):
    samples = []
    for count in (3, 0, 2):
        sample = random_sample(IMAGE, None, count, num_classes)
        masks = torch.zeros(count, *IMAGE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, sample.gt_instances.bboxes.long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), *IMAGE)
        sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, *IMAGE), 255))
        samples.append(sample)
    return samples


def built(model: ConfigDict) -> BaseDetector:
    torch.manual_seed(0)
    detector = MODELS.build(copy.deepcopy(model)).train()
    detector.init_weights()
    torch.manual_seed(1)
    return detector


def with_our_assigner(model: ConfigDict) -> ConfigDict:
    model = copy.deepcopy(model)
    for assigner in (part.assigner for part in dicts_in(model) if 'assigner' in part):
        assert assigner.type == 'HungarianAssigner'
        assigner.type = 'mmdet_detr.HungarianAssigner'
    return model


def losses_of(model: ConfigDict) -> dict[str, float]:
    """Of one training step."""
    detector = built(model)
    losses = detector(torch.randn(3, 3, *IMAGE), samples_with_masks(80), mode='loss')
    total, log = detector.parse_losses(losses)
    total.backward()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in detector.parameters())
    return {name: value.item() for name, value in log.items()}


@pytest.mark.parametrize('config', OTHERS, ids=lambda config: config.split('/')[0])
def test_one_step_with_our_assigner(config):
    model = small(config)
    assert losses_of(with_our_assigner(model)) == pytest.approx(losses_of(model), rel=1e-6)


# the auxiliary branch of DDQ has an assigner of its own in the code, and that one does end the run
@pytest.mark.parametrize(
    'config', [other for other in OTHERS if 'ddq' not in str(other)], ids=lambda config: config.split('/')[0]
)
def test_survives_nan(config):
    """Where mmdet's assigner ends the run, ours leaves a loss that is not finite, and an entry in its book."""
    model = small(config)
    images = torch.full((3, 3, *IMAGE), torch.nan)
    with pytest.raises(ValueError, match='invalid numeric entries'):
        built(model)(images, samples_with_masks(80), mode='loss')
    detector = built(with_our_assigner(model))
    losses = detector(images, samples_with_masks(80), mode='loss')
    assert not torch.isfinite(detector.parse_losses(losses)[0])
    head = detector.panoptic_head if hasattr(detector, 'panoptic_head') else detector.bbox_head
    assert head.assigner.non_finite['image.jpg (image 0)', None] > 0


@pytest.mark.parametrize(
    'config',
    [
        'detr/detr_r50_8xb2-150e_coco.py',
        'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
        'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    ],
    ids=lambda config: config.split('/')[0],
)
def test_batched_loss_equals_mmdet(config):
    """One word in the config; losses and gradients of a step as with mmdet's head."""
    model = small(config)
    batched = copy.deepcopy(model)
    batched.bbox_head.type = f'mmdet_detr.Batched{model.bbox_head.type}'
    gradients = []
    for settings in (model, batched):
        detector = built(settings)
        losses = detector(torch.randn(3, 3, *IMAGE), samples_with_masks(80), mode='loss')
        total, log = detector.parse_losses(losses)
        total.backward()
        gradients.append(({name: p.grad for name, p in detector.named_parameters() if p.requires_grad}, log))
    (expected, expected_log), (got, log) = gradients
    assert log.keys() - expected_log.keys() == {'class_error', 'cardinality_error', 'matched_queries', 'query_spread'}
    for name, value in expected_log.items():
        assert log[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f'{n}: {m}')


def test_batched_head_without_settings():
    head = MODELS.build({'type': 'mmdet_detr.BatchedDETRHead', 'num_classes': 3})
    assert head.match_loss.no_object_weight == 0.1
    assert len(head.assigner.match_costs) == 3
    assert head.fc_cls.out_features == 4


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'loss_cls': {'type': 'CrossEntropyLoss', 'class_weight': 2.0}}, r'got 2\.0'),
        ({'loss_cls': {'type': 'CrossEntropyLoss'}}, 'got None'),
        ({'train_cfg': {'assigner': {'type': 'MaxIoUAssigner', 'pos_iou_thr': 0.5, 'neg_iou_thr': 0.4}}}, 'got MaxIoU'),
    ],
)
def test_batched_head_refuses_what_it_would_not_reproduce(settings, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({'type': 'mmdet_detr.BatchedDETRHead', 'num_classes': 3, **settings})


def test_batched_head_without_objects_equals_mmdet():
    """Few queries and no object: mmdet divides by at least 1."""
    cls_scores, bboxes = torch.randn(2, 1, 5, 4), torch.rand(2, 1, 5, 4)
    sample = random_sample(IMAGE, None, 0, 3)
    got, expected = (
        MODELS.build({'type': kind, 'num_classes': 3}).loss_by_feat(
            cls_scores, bboxes, [sample.gt_instances], [sample.metainfo]
        )
        for kind in ('mmdet_detr.BatchedDETRHead', 'DETRHead')
    )
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_batched_head_takes_a_subclass_of_the_assigner_and_the_way_with_bad_annotations():
    @TASK_UTILS.register_module()
    class OneOfMine(HungarianAssigner):
        pass

    config = {'type': 'mmdet_detr.BatchedDETRHead', 'num_classes': 3, 'train_cfg': {'assigner': {'type': 'OneOfMine'}}}
    head = MODELS.build({**config, 'on_bad_annotation': 'raise'})
    assert type(head.assigner) is OneOfMine
    assert head.match_loss.on_bad_annotation == 'raise'
