import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import make_sample, random_sample
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.hub import get_config

from mmdet_detr.errors import ConfigError
from mmdet_detr.models import DETRHead, TransformerOutput


def head_with_outputs(logits: torch.Tensor, boxes: torch.Tensor, **kwargs) -> DETRHead:
    """A head whose branches return the given logits (Q, K+1) and boxes (Q, 4)."""
    head = DETRHead(num_classes=logits.shape[-1] - 1, embed_dims=8, **kwargs)
    head._branches = lambda hidden: (logits[None], boxes[None])
    return head


def decoded(hidden: torch.Tensor) -> TransformerOutput:
    """Output of a transformer with these hidden states (L, B, Q, C)."""
    cells = torch.zeros(hidden.shape[1], 1, hidden.shape[-1])
    return TransformerOutput(hidden, cells, cells, None, [(1, 1)])


LOGITS = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
BOXES = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.5, 0.4, 0.2], [0.5, 0.5, 0.1, 0.1]])
HIDDEN = decoded(torch.zeros(1, 1, 3, 8))


def test_forward_shapes_and_range():
    logits, boxes = DETRHead(num_classes=4, embed_dims=8)(decoded(torch.randn(3, 2, 5, 8)))
    assert logits.shape == (3, 2, 5, 5)
    assert boxes.shape == (3, 2, 5, 4)
    assert boxes.min() > 0
    assert boxes.max() < 1


def test_predict_by_hand():
    """Predictions are sorted by score, clipped, and in pixels of the original image (200 x 100, enlarged twice)."""
    sample = make_sample((200, 400), scale=2.0)
    result = head_with_outputs(LOGITS, BOXES).predict(HIDDEN, [sample])[0]
    probability = LOGITS.softmax(-1)
    assert result.labels.tolist()[:2] == [0, 1]
    assert result.scores.tolist()[:2] == pytest.approx([probability[1, 0].item(), probability[0, 1].item()])
    assert result.bboxes[0].tolist() == pytest.approx([0, 40, 60, 60])  # x1 = -20 before clipping
    assert result.bboxes[1].tolist() == pytest.approx([80, 30, 120, 70])


def test_predict_without_rescale_or_scale_factor():
    sample = make_sample((200, 400), scale=2.0)
    head = head_with_outputs(LOGITS, BOXES)
    assert head.predict(HIDDEN, [sample], rescale=False)[0].bboxes[1].tolist() == pytest.approx([160, 60, 240, 140])
    unresized = make_sample((200, 400))
    del unresized.scale_factor
    assert head.predict(HIDDEN, [unresized])[0].bboxes[1].tolist() == pytest.approx([160, 60, 240, 140])


def test_non_uniform_scale_factor():
    sample = make_sample((200, 400))
    sample.set_metainfo({'scale_factor': (2.0, 4.0), 'ori_shape': (50, 200)})
    boxes = head_with_outputs(LOGITS, BOXES).predict(HIDDEN, [sample])[0].bboxes
    assert boxes[1].tolist() == pytest.approx([80, 15, 120, 35])


@pytest.mark.parametrize(('max_per_img', 'expected'), [(1, 1), (3, 3), (300, 3), (-1, 3), (None, 3)])
def test_max_per_img(max_per_img, expected):
    head = head_with_outputs(LOGITS, BOXES, test_cfg={'max_per_img': max_per_img})
    result = head.predict(HIDDEN, [make_sample((100, 200))])[0]
    assert len(result) == expected
    assert result.scores[0] == LOGITS.softmax(-1)[1, 0]


def test_score_thr():
    head = head_with_outputs(LOGITS, BOXES, test_cfg={'score_thr': 0.8})
    assert head.predict(HIDDEN, [make_sample((100, 200))])[0].labels.tolist() == [0]
    head.test_cfg['score_thr'] = 0.999
    assert head.predict(HIDDEN, [make_sample((100, 200))])[0].bboxes.shape == (0, 4)


def test_only_the_last_layer_is_predicted():
    head = DETRHead(num_classes=4, embed_dims=8).eval()
    hidden = torch.randn(3, 1, 5, 8)
    samples = [make_sample((100, 200))]
    all_layers, last = (head.predict(decoded(x), samples)[0].bboxes for x in (hidden, hidden[-1:]))
    assert torch.equal(all_layers, last)


def test_sigmoid_head_has_no_no_object_output():
    loss = {'type': 'mmdet_detr.BipartiteMatchLoss', 'loss_cls': {'type': 'FocalLoss', 'use_sigmoid': True}}
    head = DETRHead(num_classes=4, embed_dims=8, loss=loss, test_cfg={'max_per_img': 12})
    hidden = decoded(torch.randn(1, 1, 5, 8))
    logits, _boxes = head(hidden)
    assert logits.shape == (1, 1, 5, 4)
    result = head.predict(hidden, [make_sample((100, 200))])[0]
    scores, index = logits[0, 0].sigmoid().flatten().sort(descending=True)
    torch.testing.assert_close(result.scores, scores[:12])
    assert result.labels.tolist() == (index[:12] % 4).tolist()
    assert len(result) == 12


CONFIG = {
    'type': 'mmdet_detr.DETRHead',
    'num_classes': 4,
    'embed_dims': 32,
    'transformer': {
        'type': 'mmdet_detr.TransformerNeck',
        'in_channels': 16,
        'embed_dims': 32,
        'num_queries': 6,
        'num_encoder_layers': 1,
        'num_decoder_layers': 2,
        'dropout': 0.0,
    },
    'test_cfg': {'max_per_img': 6},
}


def test_head_with_its_own_transformer_reads_feature_maps():
    """The transformer gives the same numbers inside the head and before it."""
    head = MODELS.build(CONFIG).eval()
    without = MODELS.build({**CONFIG, 'transformer': None}).eval()
    without.load_state_dict({k: v for k, v in head.state_dict().items() if not k.startswith('transformer.')})
    feats = (torch.randn(2, 16, 4, 5),)
    samples = [random_sample(size, (128, 160), 3, num_classes=4) for size in ((128, 160), (100, 90))]
    hidden = head.transformer(feats, samples)
    for with_feats, with_hidden in (
        (head(feats, samples), without(hidden)),
        (head.loss(feats, samples).values(), without.loss(hidden, samples).values()),
        (
            [result.bboxes for result in head.predict(feats, samples)],
            [result.bboxes for result in without.predict(hidden, samples)],
        ),
    ):
        for a, b in zip(with_feats, with_hidden, strict=True):
            torch.testing.assert_close(a, b)


def test_head_of_a_stock_detector():
    """Our head works in mmdet's single-stage detector. It knows the padding from the samples."""
    detector = {
        'type': 'SingleStageDetector',
        'backbone': {'type': 'ResNet', 'depth': 18, 'base_channels': 2, 'out_indices': (3,)},
        'bbox_head': {**CONFIG, 'test_cfg': None},
        'train_cfg': {'allowed_border': -1},
        'test_cfg': {'max_per_img': 4},
    }
    model = MODELS.build(detector)
    samples = [random_sample(size, (96, 128), 2, num_classes=4) for size in ((96, 128), (60, 100))]
    images = torch.randn(2, 3, 96, 128)
    losses = model(images, samples, mode='loss')
    sum(losses.values()).backward()
    assert len([name for name in losses if 'loss' in name]) == 6
    assert all(p.grad is not None for p in model.bbox_head.parameters())
    model.eval()
    feats = model.extract_feat(images)
    expected = model.bbox_head.predict(feats, samples)
    for sample, result in zip(model(images, samples, mode='predict'), expected, strict=True):
        assert len(sample.pred_instances) == 4
        assert torch.equal(sample.pred_instances.bboxes, result.bboxes)
    logits, _ = model(images, samples, mode='tensor')
    assert logits.shape == (2, 2, 6, 5)


@pytest.mark.parametrize('class_weight', [[1.0, 2.0], 1.0])
def test_one_class_weight_for_each_output(class_weight):
    loss_cls = {'type': 'CrossEntropyLoss', 'class_weight': class_weight}
    loss = {'type': 'mmdet_detr.BipartiteMatchLoss', 'loss_cls': loss_cls}
    with pytest.raises(ConfigError, match=r'has 3 outputs, and the class_weight of its loss is'):
        DETRHead(num_classes=2, embed_dims=8, loss=loss)
    loss_cls['class_weight'] = [1.0, 2.0, 0.5]
    assert DETRHead(num_classes=2, embed_dims=8, loss=loss).class_embed.out_features == 3


def test_settings_for_nms_are_named_in_the_log_and_not_read(monkeypatch):
    logged = []
    monkeypatch.setattr('mmdet_detr.models.detr_head.print_log', lambda message, logger: logged.append(message))
    written_for_retinanet = {'nms_pre': 1000, 'nms': {'type': 'nms', 'iou_threshold': 0.5}, 'score_thr': 0.05}
    head = DETRHead(num_classes=4, embed_dims=8, test_cfg=written_for_retinanet)
    assert logged == ['DETRHead needs no NMS and does not read these of test_cfg: nms, nms_pre']
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).repeat(2, 1)
    head = head_with_outputs(LOGITS[:1].repeat(2, 1), boxes, test_cfg=written_for_retinanet)
    assert len(head.predict(HIDDEN, [make_sample((100, 200))])[0]) == 2  # NMS would remove one of them.
    DETRHead(num_classes=4, embed_dims=8, test_cfg={'score_thr': 0.05, 'max_per_img': 4})
    assert len(logged) == 2


def test_width_of_head_and_transformer_must_be_the_same():
    with pytest.raises(ConfigError, match=r'DETRHead\(embed_dims=256\) has a transformer with embed_dims=32'):
        MODELS.build({name: value for name, value in CONFIG.items() if name != 'embed_dims'})


@pytest.mark.parametrize(
    ('x', 'got'),
    [
        ((torch.zeros(1, 8, 4, 5), torch.zeros(1, 8, 2, 3)), r'2 feature maps, which need transformer=dict\(\.\.\.\)'),
        (torch.zeros(9, 256, 7, 7), r'a tensor \(9, 256, 7, 7\)'),  # A RoI head calls its box head with such a tensor.
        (decoded(torch.zeros(1, 1, 3, 9)), 'some of width 9'),
    ],
)
def test_feature_maps_without_a_transformer(x, got):
    with pytest.raises(ConfigError, match=rf'\(embed_dims=8\) reads hidden states of a transformer, got {got}$'):
        DETRHead(num_classes=4, embed_dims=8)(x)


BACKBONE = {'type': 'ResNet', 'depth': 18, 'base_channels': 2, 'out_indices': (3,)}


def test_cannot_be_the_rpn_head_of_two_stages():
    rpn = {'nms_pre': 100, 'max_per_img': 10}
    settings = {'train_cfg': {'rpn': rpn, 'rpn_proposal': rpn}, 'test_cfg': {'rpn': rpn}}
    detector = MODELS.build(ConfigDict(type='TwoStageDetector', backbone=BACKBONE, rpn_head=CONFIG, **settings))
    with pytest.raises(ConfigError, match='DETRHead cannot be a rpn_head'):
        detector(torch.randn(1, 3, 96, 128), [random_sample((96, 128), None, 2, num_classes=1)], mode='loss')


def test_cannot_feed_a_mask_head():
    model = get_config('mmdet::yolact/yolact_r50_1xb8-55e_coco.py').model
    model.backbone, model.neck, model.bbox_head = BACKBONE, None, ConfigDict(CONFIG)
    model.mask_head.in_channels = 16
    detector = MODELS.build(model)
    with pytest.raises(ConfigError, match='DETRHead cannot feed a mask_head'):
        detector(torch.randn(1, 3, 96, 128), [random_sample((96, 128), None, 2, num_classes=4)], mode='loss')


def test_building_twice_leaves_the_config_alone():
    before = copy.deepcopy(CONFIG)
    MODELS.build(CONFIG)
    assert before == CONFIG
    MODELS.build(CONFIG)


def test_can_be_subclassed():
    class WideHead(DETRHead):
        pass

    assert WideHead(num_classes=2, embed_dims=8).class_embed.out_features == 3


def test_boxes_are_float32_under_autocast():
    head = DETRHead(num_classes=4, embed_dims=8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits, boxes = head(decoded(torch.randn(1, 1, 5, 8)))
    assert logits.dtype == torch.bfloat16
    assert boxes.dtype == torch.float32


@pytest.mark.parametrize('threshold', [0.0, 0.25, 0.5, 'a score'])
def test_predict_equals_hugging_face(threshold):
    """Their post_process_object_detection does not sort or clip, but all other numbers are the same."""
    transformers = pytest.importorskip('transformers', minversion='5', reason='needs transformers 5')
    logits, boxes = torch.randn(100, 7) * 2, torch.rand(100, 4) * 0.5 + 0.1
    if threshold == 'a score':
        threshold = logits.softmax(-1)[:, :-1].max(-1).values[42].item()
    outputs = SimpleNamespace(logits=logits[None], pred_boxes=boxes[None])
    processor = transformers.DetrImageProcessorPil()
    expected = processor.post_process_object_detection(outputs, threshold, target_sizes=[(100, 200)])[0]
    head = head_with_outputs(logits, boxes, test_cfg={'score_thr': threshold, 'max_per_img': 100})
    got = head.predict(HIDDEN, [make_sample((200, 400), scale=2.0)])[0]
    order = expected['scores'].argsort(descending=True)
    assert (0 < len(order) < 100) == (threshold > 0.2)
    assert torch.equal(got.scores, expected['scores'][order])
    assert torch.equal(got.labels, expected['labels'][order])
    clipped = expected['boxes'][order].clamp(min=0).minimum(torch.tensor([200, 100, 200, 100]))
    torch.testing.assert_close(got.bboxes, clipped, rtol=0, atol=1e-4)
