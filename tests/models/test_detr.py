import copy
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from helpers import make_sample, mmdet_config, padded_batch, random_sample, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import load_checkpoint, save_checkpoint
from torch import nn

from mmdet_detr.checkpoints import CheckpointError
from mmdet_detr.checkpoints.convert import convert_checkpoint
from mmdet_detr.errors import ConfigError
from mmdet_detr.models import DETR, attention_weights

GOLDEN_NAMES = Path(__file__).with_name('detr_r50_state_dict.json')
R50 = Path(__file__).parents[2] / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'


TO_MMDET = [
    (r'^neck\.input_proj', 'neck.convs.0.conv'),
    (r'^neck\.query_embed', 'query_embedding'),
    (r'^neck\.(encoder|decoder)', r'\1'),
    (r'self_attn\.', 'self_attn.attn.'),
    (r'multihead_attn\.', 'cross_attn.attn.'),
    (r'linear1', 'ffn.layers.0.0'),
    (r'linear2', 'ffn.layers.1'),
    (r'norm([123])\.(?=weight|bias)(?<=layers\.\d\.norm\d\.)', lambda m: f'norms.{int(m[1]) - 1}.'),
    (r'decoder\.norm\.', 'decoder.post_norm.'),
    (r'class_embed', 'fc_cls'),
    (r'bbox_embed\.layers\.0', 'reg_ffn.layers.0.0'),
    (r'bbox_embed\.layers\.1', 'reg_ffn.layers.1'),
    (r'bbox_embed\.layers\.2', 'fc_reg'),
]


def mmdet_name(name: str) -> str:
    if name.startswith('backbone'):
        return name
    for pattern, replacement in TO_MMDET:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture
def twins() -> tuple[nn.Module, nn.Module]:
    """Our DETR and mmdet's, with the same random weights."""
    config = tiny_detr_config()
    ours = MODELS.build(config)
    theirs = MODELS.build(mmdet_config(config))
    for norm in (module for module in ours.modules() if isinstance(module, nn.LayerNorm)):
        nn.init.normal_(norm.weight, 1, 0.1)  # swapped norms would now give other numbers
        nn.init.normal_(norm.bias, 0, 0.1)
    theirs.load_state_dict({mmdet_name(name): value for name, value in ours.state_dict().items()})
    return ours, theirs


@torch.no_grad()
def test_outputs_equal_mmdet(twins):
    ours, theirs = (model.eval() for model in twins)
    images, samples = padded_batch()
    logits, boxes = ours(images, samples, mode='tensor')
    expected_logits, expected_boxes = theirs.bbox_head(
        theirs.forward_transformer(theirs.extract_feat(images), samples)['hidden_states']
    )
    assert logits.shape == (3, 3, 12, 6)
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes, expected_boxes, rtol=0, atol=1e-4)
    for got, expected in zip(
        ours(images, samples, mode='predict'),
        theirs(images, copy.deepcopy(samples), mode='predict'),
        strict=True,
    ):
        torch.testing.assert_close(got.pred_instances.scores, expected.pred_instances.scores, rtol=0, atol=1e-5)
        assert torch.equal(got.pred_instances.labels, expected.pred_instances.labels)
        torch.testing.assert_close(got.pred_instances.bboxes, expected.pred_instances.bboxes, rtol=0, atol=1e-2)


def test_losses_and_gradients_equal_mmdet(twins):
    ours, theirs = (model.train() for model in twins)
    images, samples = padded_batch()
    losses = ours(images, samples, mode='loss')
    expected = theirs(images, samples, mode='loss')
    assert {name for name in losses if 'loss' in name} == expected.keys()
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-4), name
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    theirs_by_name = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            reference = theirs_by_name[mmdet_name(name)].grad
            torch.testing.assert_close(
                parameter.grad, reference, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f'{n} {m}'
            )


def test_ten_steps_of_adamw_equal_mmdet(twins):
    ours, theirs = (model.train().double() for model in twins)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4) for model in twins]
    for _ in range(10):
        images, samples = padded_batch()
        for sample in samples:
            sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            sum(model(images.double(), samples, mode='loss').values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    theirs_by_name = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs_by_name[mmdet_name(name)], rtol=0, atol=1e-6)


def test_single_image_equals_its_row_of_a_batch():
    model = MODELS.build(tiny_detr_config()).eval()
    images = torch.randn(3, 3, 96, 128)
    logits, boxes = model(images, mode='tensor')
    for i in range(3):
        single_logits, single_boxes = model(images[i : i + 1], mode='tensor')
        torch.testing.assert_close(logits[:, i : i + 1], single_logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(boxes[:, i : i + 1], single_boxes, rtol=0, atol=1e-5)


def test_training_on_a_batch_without_boxes_reaches_every_parameter():
    model = MODELS.build(tiny_detr_config()).train()
    losses = model(torch.randn(1, 3, 64, 64), [make_sample((64, 64))], mode='loss')
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('size', [(1, 1), (7, 300), (33, 31)])
def test_images_smaller_than_a_stride(size):
    model = MODELS.build(tiny_detr_config()).eval()
    samples = [make_sample(size, (64, 320)), random_sample((64, 320), None, 2, 5)]
    losses = model(torch.randn(2, 3, 64, 320), samples, mode='loss')
    assert all(torch.isfinite(loss) for loss in losses.values())
    results = model(torch.randn(2, 3, 64, 320), samples, mode='predict')
    assert torch.isfinite(results[0].pred_instances.bboxes).all()
    assert results[0].pred_instances.bboxes.max() <= max(size)
    alone = model(torch.randn(1, 3, *size), [make_sample(size)], mode='predict')
    assert torch.isfinite(alone[0].pred_instances.scores).all()


def test_bfloat16_autocast():
    model = MODELS.build(tiny_detr_config()).train()
    images, samples = padded_batch()
    expected = model(images, samples, mode='loss')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(images, samples, mode='loss')
    assert all(value.dtype == torch.float32 for value in losses.values())
    for name in (name for name in losses if 'loss' in name):
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=0.1), name
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def r50(num_classes: int = 80) -> DETR:
    config = Config.fromfile(R50).model
    config.backbone.init_cfg = None
    config.bbox_head.num_classes = num_classes
    return MODELS.build(config)


FPN = {'type': 'FPN', 'in_channels': [16, 32, 64], 'out_channels': 24, 'num_outs': 4}
LEVELS = {'in_channels': 24, 'levels': (1, 2)}


@pytest.mark.parametrize('necks', [[], [FPN], [FPN, {'type': 'BFP', 'in_channels': 24, 'num_levels': 4}]])
def test_both_mounts_give_identical_losses(necks):
    """The transformer can be the last neck of our DETR, or a part of the head in mmdet's single-stage detector."""
    config = tiny_detr_config(**LEVELS if necks else {})
    config.backbone.out_indices = (1, 2, 3) if necks else (3,)
    transformer = config.neck
    head = {**config.bbox_head, 'transformer': transformer}
    stock = {**config, 'type': 'SingleStageDetector', 'neck': necks or None, 'bbox_head': head}
    config.neck = [*necks, transformer]
    ours, theirs = MODELS.build(config), MODELS.build(stock)
    prefixes = ((r'^neck\.', 'bbox_head.transformer.'), (r'^feature_neck\.', 'neck.'))

    def stock_name(name: str) -> str:
        return next((re.sub(ours, theirs, name) for ours, theirs in prefixes if re.match(ours, name)), name)

    theirs.load_state_dict({stock_name(name): value for name, value in ours.state_dict().items()})
    theirs.backbone = ours.backbone  # Our folded backbone rounds differently from mmdet's.
    images, samples = padded_batch()
    images = images.contiguous(memory_format=torch.channels_last)
    losses, expected = ours(images, samples, mode='loss'), theirs(images, samples, mode='loss')
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    boxes = [
        [sample.pred_instances.bboxes for sample in model.eval()(images, samples, mode='predict')]
        for model in (ours, theirs)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*boxes, strict=True))


@pytest.mark.parametrize(('necks', 'name'), [(FPN, 'FPN'), ([FPN], 'FPN'), ([], 'Identity'), (None, 'Identity')])
def test_last_neck_must_make_hidden_states(necks, name):
    with pytest.raises(ConfigError, match=f'the last neck of DETR must make hidden states .* and {name} does not'):
        MODELS.build({**tiny_detr_config(), 'neck': necks})


def test_checkpoint_of_a_model_with_feature_necks(tmp_path):
    """It loads into the same model. It cannot be converted, because the official layout has no place for the FPN."""
    config = tiny_detr_config(**LEVELS)
    config.backbone.out_indices = (1, 2, 3)
    config.neck = [FPN, config.neck]
    model, again = MODELS.build(config), MODELS.build(config)
    save_checkpoint({'state_dict': model.state_dict()}, str(tmp_path / 'model.pth'))
    load_checkpoint(again, str(tmp_path / 'model.pth'), strict=True)
    for (name, value), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(value, other), name
    with pytest.raises(CheckpointError, match=r'no place in the layout|neck'):
        convert_checkpoint(tmp_path / 'model.pth', tmp_path / 'out.pth', 'detr')
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('way', ['torch.save', 'pickle', 'deepcopy'])
def test_whole_model_is_saved_and_copied(way, tmp_path):
    model = MODELS.build(tiny_detr_config()).eval()
    images, samples = padded_batch()
    model(images, samples, mode='loss')  # The loss has counted annotations by now.
    if way == 'torch.save':
        torch.save(model, tmp_path / 'model.pth')
        again = torch.load(tmp_path / 'model.pth', weights_only=False)
    else:
        again = pickle.loads(pickle.dumps(model)) if way == 'pickle' else copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # The copy has weights of its own.
        assert not torch.equal(model(images, samples, mode='tensor')[0], again(images, samples, mode='tensor')[0])
        for parameter in model.parameters():
            parameter.div_(2)
        for ours, theirs in zip(*(m(images, samples, mode='tensor') for m in (model, again)), strict=True):
            assert torch.equal(ours, theirs)


def test_attention_weights_of_a_detector():
    """The names are those that docs/architecture.md uses."""
    model = MODELS.build(tiny_detr_config()).eval()
    images, samples = padded_batch()
    with torch.no_grad(), attention_weights(model) as weights:
        model(images, samples, mode='predict')
    assert weights['neck.decoder.layers.2.multihead_attn'].shape == (3, 4, 12, 12)  # 3 x 4 cells


def test_parameter_count():
    """DETR has 41.5 million parameters with COCO's 91 category ids and the no-object class, as in the official code.

    The official code does not count frozen BatchNorm. Its log prints 41302368 for the trained parameters.
    """
    model = r50(num_classes=91)
    frozen_norms = sum(
        parameter.numel()
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    )
    assert sum(parameter.numel() for parameter in model.parameters()) - frozen_norms == 41_524_768
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 41_302_368


def test_state_dict_is_the_golden_one():
    """Saved checkpoints depend on these names and shapes. Renaming prefixes gives the official names."""
    got = {name: list(value.shape) for name, value in r50().state_dict().items()}
    assert got == json.loads(GOLDEN_NAMES.read_text())


OFFICIAL_PREFIXES = {
    'backbone.': 'backbone.0.body.',
    'neck.encoder.': 'transformer.encoder.',
    'neck.decoder.': 'transformer.decoder.',
    'neck.input_proj.': 'input_proj.',
    'neck.query_embed.': 'query_embed.',
    'bbox_head.': '',
}


def test_names_map_to_the_official_ones_by_prefix():
    official = set()
    for name in json.loads(GOLDEN_NAMES.read_text()):
        prefix = next(prefix for prefix in OFFICIAL_PREFIXES if name.startswith(prefix))
        official.add(OFFICIAL_PREFIXES[prefix] + name.removeprefix(prefix))
    stems = ['transformer.encoder.layers.5', 'transformer.decoder.layers.5']
    assert {
        *(f'{stem}.{part}' for stem in stems for part in ('self_attn.in_proj_weight', 'self_attn.out_proj.bias')),
        *(f'{stem}.{part}.weight' for stem in stems for part in ('linear1', 'linear2', 'norm1', 'norm2')),
        'transformer.decoder.layers.0.multihead_attn.in_proj_bias',
        'transformer.decoder.layers.0.norm3.weight',
        'transformer.decoder.norm.bias',
        'input_proj.weight',
        'query_embed.weight',
        'class_embed.weight',
        'bbox_embed.layers.2.bias',
        'backbone.0.body.conv1.weight',
        'backbone.0.body.layer4.2.bn3.running_var',
        'backbone.0.body.layer1.0.downsample.0.weight',
    } <= official
    assert 'transformer.encoder.norm.weight' not in official
