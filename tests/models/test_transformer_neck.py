import copy
import math
from collections.abc import Callable

import pytest
import torch
from helpers import make_sample
from mmdet.registry import MODELS
from torch import nn

from mmdet_detr.errors import ConfigError
from mmdet_detr.models import TransformerNeck

SMALL = {
    'in_channels': 24,
    'embed_dims': 32,
    'num_queries': 7,
    'num_heads': 4,
    'num_encoder_layers': 2,
    'num_decoder_layers': 3,
    'feedforward_channels': 48,
}


def test_hidden_states_of_every_layer():
    hidden = TransformerNeck(**SMALL).eval()([torch.randn(2, 24, 3, 5)])
    assert hidden.shape == (3, 2, 7, 32)


def test_reads_the_last_level():
    neck = TransformerNeck(**SMALL).eval()
    level = torch.randn(1, 24, 3, 5)
    assert torch.equal(neck([torch.randn(1, 9, 6, 10), level]), neck([level]))


@pytest.mark.parametrize('level', [0, 1, -1, -2])
def test_reads_one_level_by_index(level):
    neck = TransformerNeck(**SMALL, levels=level).eval()
    levels = [torch.randn(1, 24, 6, 10), torch.randn(1, 24, 3, 5)]
    alone = TransformerNeck(**SMALL).eval()
    alone.load_state_dict(neck.state_dict())  # the names are those of published weights
    assert torch.equal(neck(levels), alone([levels[level]]))


LEVELS = {**SMALL, 'in_channels': (24, 16)}


def test_order_of_levels_does_not_matter():
    """Attention knows only the position and level of a cell, so levels can be swapped together with their weights."""
    neck = TransformerNeck(**LEVELS, levels=(0, 2)).eval()
    swapped = TransformerNeck(**{**LEVELS, 'in_channels': (16, 24)}, levels=(2, 0)).eval()
    weights = neck.state_dict()
    for name in ('weight', 'bias'):
        weights[f'input_proj.0.{name}'], weights[f'input_proj.1.{name}'] = (
            weights[f'input_proj.1.{name}'],
            weights[f'input_proj.0.{name}'],
        )
    weights['level_embed.weight'] = weights['level_embed.weight'].flip(0)
    swapped.load_state_dict(weights)
    feats = [torch.randn(2, 24, 6, 10), torch.randn(2, 9, 1, 1), torch.randn(2, 16, 3, 5)]
    samples = [make_sample((96, 160)), make_sample((64, 96), (96, 160))]
    hidden = neck(feats, samples)
    assert hidden.shape == (3, 2, 7, 32)
    torch.testing.assert_close(swapped(feats, samples), hidden)


def test_every_level_and_its_embedding_matter():
    neck = TransformerNeck(**LEVELS, levels=(0, 1)).eval()
    feats = [torch.randn(1, 24, 6, 10), torch.randn(1, 16, 3, 5)]
    hidden = neck(feats)
    for level in (0, 1):
        changed = list(feats)
        changed[level] = feats[level] + 1
        assert not torch.allclose(neck(changed), hidden)
    neck.level_embed.weight.data[1] += 1
    assert not torch.allclose(neck(feats), hidden)


@pytest.mark.parametrize('input_norm', [False, True])
def test_padded_cells_of_several_levels_have_no_influence(input_norm):
    """The image of 80 x 160 pixels has padded cells on the finer level only."""
    neck = TransformerNeck(**LEVELS, levels=(0, 1), input_norm=input_norm).eval()
    samples = [make_sample((96, 160)), make_sample((80, 160), (96, 160))]
    feats = [torch.randn(2, 24, 6, 10), torch.randn(2, 16, 3, 5)]
    fine = feats[0].clone()
    fine[1, :, 5:] = 1e3
    torch.testing.assert_close(neck([fine, feats[1]], samples), neck(feats, samples), rtol=0, atol=0)
    coarse = feats[1].clone()
    coarse[1, :, 2:] = 1e3
    assert not torch.allclose(neck([feats[0], coarse], samples), neck(feats, samples))


def test_input_norm_takes_scale_and_offset_of_a_level_away():
    neck = TransformerNeck(**LEVELS, levels=(0, 1), input_norm=True).double().eval()
    assert {name.split('.')[0] for name in neck.state_dict()} >= {'input_norm', 'input_proj', 'level_embed'}
    for projection in neck.input_proj:
        nn.init.zeros_(projection.bias)
    feats = [torch.randn(1, 24, 6, 10).double(), torch.randn(1, 16, 3, 5).double()]
    torch.testing.assert_close(neck([feats[0] * 50, feats[1]]), neck(feats), rtol=1e-3, atol=1e-3)
    plain = TransformerNeck(**LEVELS, levels=(0, 1)).double().eval()
    assert not torch.allclose(plain([feats[0] * 50, feats[1]]), plain(feats), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'in_channels': (24, 16)}, r'in_channels of every level'),
        ({'in_channels': (24, 16), 'levels': (0, 1, 2)}, r'in_channels=\(24, 16\) and levels=\(0, 1, 2\)'),
        ({'levels': ()}, r'in_channels of every level'),
        ({'levels': (0, 0)}, r'levels must be different indices of feature maps, got \(0, 0\)'),
        ({'levels': 'P5'}, r"levels must be different indices of feature maps, got 'P5'"),
    ],
)
def test_levels_and_channels_must_belong_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        TransformerNeck(**{**SMALL, **settings})


@pytest.mark.parametrize('level', [2, -3])
def test_level_that_does_not_exist(level):
    with pytest.raises(ConfigError, match=rf'TransformerNeck\(levels={level}\): there are 2 feature maps, from 0 on'):
        TransformerNeck(**SMALL, levels=level).eval()([torch.randn(1, 24, 6, 10), torch.randn(1, 24, 3, 5)])


def test_wrong_channels():
    with pytest.raises(ConfigError, match=r'\(in_channels=24\): feature map -1 of 2 has 16 channels'):
        TransformerNeck(**SMALL).eval()([torch.randn(1, 24, 6, 10), torch.randn(1, 16, 3, 5)])


def test_a_tensor_is_no_feature_maps():
    """A transformer behind another one, or in a RoI head, would get a tensor."""
    with pytest.raises(ConfigError, match=r'sequence of feature maps, got a tensor \(3, 2, 24, 32\)'):
        TransformerNeck(**SMALL).eval()(torch.randn(3, 2, 24, 32))


def test_training_needs_data_samples():
    """mmdet's own detectors give a list of necks no data samples, so padding would count as image."""
    necks = [
        {'type': 'ChannelMapper', 'in_channels': [24], 'out_channels': 24},
        {'type': 'mmdet_detr.TransformerNeck', **SMALL},
    ]
    with pytest.raises(ConfigError, match='gets no data samples and cannot know the padding'):
        MODELS.build(necks)([torch.randn(1, 24, 3, 5)])


def test_warns_once_of_cells_larger_than_objects(monkeypatch):
    warnings = []
    monkeypatch.setattr('mmdet_detr.models.transformer_neck.warn', warnings.append)
    feats = [torch.randn(1, 24, 512 // stride, 512 // stride) for stride in (32, 64, 128)]
    samples = [make_sample((512, 512))]
    neck = TransformerNeck(**SMALL)
    neck(feats, samples)
    neck(feats, samples)
    assert len(warnings) == 1
    assert 'reads cells of 128 pixels' in warnings[0]
    assert 'feature maps 0 to 2 have strides 32, 64, 128' in warnings[0]
    TransformerNeck(**SMALL, levels=(0, 2))(feats, samples)
    TransformerNeck(**SMALL)(feats[2:], samples)  # a single feature map is no choice to warn about
    assert len(warnings) == 1


def test_width_must_divide():
    with pytest.raises(ConfigError, match='multiple of 4 and of num_heads=4, got 30'):
        TransformerNeck(**{**SMALL, 'embed_dims': 30})


@pytest.mark.parametrize('empty', ['num_decoder_layers', 'num_queries'])
def test_needs_a_decoder_layer_and_a_query(empty):
    with pytest.raises(ConfigError, match=f'{empty}=0'):
        TransformerNeck(**{**SMALL, empty: 0})


def test_padded_cells_have_no_influence():
    neck = TransformerNeck(**SMALL).eval()
    samples = [make_sample((96, 160)), make_sample((64, 96), (96, 160))]  # 3 x 5 cells, 2 x 3 of the second image
    feats = torch.randn(2, 24, 3, 5)
    changed = feats.clone()
    changed[1, :, 2:] = 1e3
    changed[1, :, :, 3:] = -1e3
    torch.testing.assert_close(neck([changed], samples), neck([feats], samples), rtol=0, atol=0)


def test_padded_image_equals_the_image_alone():
    neck = TransformerNeck(**SMALL).eval()
    feats = torch.randn(1, 24, 2, 3)
    padded = torch.randn(2, 24, 3, 5)
    padded[1, :, :2, :3] = feats[0]
    hidden = neck([padded], [make_sample((96, 160)), make_sample((64, 96), (96, 160))])
    torch.testing.assert_close(hidden[:, 1:], neck([feats]), rtol=0, atol=1e-5)


def test_batch_of_equal_sizes_equals_single_images():
    neck = TransformerNeck(**SMALL).eval()
    feats = torch.randn(3, 24, 3, 5)
    single = torch.cat([neck([feats[i : i + 1]]) for i in range(3)], dim=1)
    torch.testing.assert_close(neck([feats]), single, rtol=0, atol=1e-5)


def test_dropout_only_in_training():
    neck = TransformerNeck(**SMALL, dropout=0.5)
    feats, samples = [torch.randn(1, 24, 3, 5)], [make_sample((96, 160))]
    assert not torch.equal(neck(feats, samples), neck(feats, samples))
    neck.eval()
    assert torch.equal(neck(feats), neck(feats))


def test_attention_equals_pytorch():
    from mmdet_detr.models.transformer import Attention

    ours = Attention(32, 4, 0.0)
    nn.init.xavier_uniform_(ours.in_proj_weight)
    nn.init.normal_(ours.in_proj_bias)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())  # the same names and shapes
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 9, 32), torch.randn(2, 9, 32)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    expected = theirs(query, key, value, key_padding_mask=padding)[0]
    torch.testing.assert_close(ours(query, key, value, ~padding[:, None, None]), expected)


def test_initialisation():
    neck = TransformerNeck(in_channels=512)
    for name, parameter in neck.named_parameters():
        if 'norm' in name:
            assert torch.all(parameter == (1 if name.endswith('weight') else 0)), name
        elif name.endswith(('in_proj_bias', 'out_proj.bias')):
            assert torch.all(parameter == 0), name
        elif parameter.dim() == 2 and name.startswith(('encoder', 'decoder')):  # Xavier
            bound = math.sqrt(6 / sum(parameter.shape))
            assert parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert neck.query_embed.weight.std().item() == pytest.approx(1, rel=0.05)
    bound = 1 / math.sqrt(512)  # PyTorch's default for convolutions
    assert neck.input_proj.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert neck.encoder.layers[0].linear1.bias.std().item() == pytest.approx(1 / math.sqrt(256 * 3), rel=0.1)


def padded_or_not(batch: int, size: tuple[int, int], padded: bool) -> list:
    height, width = size[0] * 8, size[1] * 8
    return [make_sample((height // 2 if padded and i == 0 else height, width), (height, width)) for i in range(batch)]


BATCHES = [(2, (4, 6), False), (1, (5, 6), False), (3, (8, 7), True), (2, (9, 3), True), (1, (1, 6), False)]


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    plain = TransformerNeck(**SMALL, dropout=0.0)
    saving = TransformerNeck(**SMALL, dropout=0.0, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    feats, samples = [torch.randn(2, 24, 4, 6)], padded_or_not(2, (4, 6), True)
    for neck in (plain, saving):
        neck(feats, samples).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    kept = []
    for neck in (plain, saving):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            neck(feats, samples)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


COMPILES = hasattr(torch.compiler, 'is_compiling')


@pytest.mark.skipif(COMPILES, reason='this PyTorch compiles it')
def test_old_pytorch_does_not_compile():
    with pytest.raises(ConfigError, match='needs PyTorch'):
        TransformerNeck(**SMALL, compile=True)


@pytest.mark.skipif(not COMPILES, reason='PyTorch 2.1 does not compile it')
@pytest.mark.parametrize('dropout', [0.0, 0.1])
def test_compiled_for_few_kinds_of_batches_and_no_size(dropout):
    """Training, inference, padding and the number of images need graphs of their own, but sizes do not."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    plain = TransformerNeck(**SMALL, dropout=0.0)
    compiled = TransformerNeck(**SMALL, dropout=dropout, compile={'backend': backend})
    compiled.load_state_dict(plain.state_dict())
    numbers = []
    for _ in range(2):
        for training in (True, False):
            for batch, size, padded in BATCHES:
                feats, samples = [torch.randn(batch, 24, *size)], padded_or_not(batch, size, padded)
                with torch.set_grad_enabled(training):
                    outputs = [neck.train(training)(feats, samples) for neck in (plain, compiled)]
                if not (training and dropout):
                    torch.testing.assert_close(outputs[0], outputs[1])
        numbers.append(len(graphs))
    assert 0 < numbers[0] <= 16  # encoder and decoder together
    assert numbers[1] == numbers[0]
    other = copy.deepcopy(compiled)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    assert not other(feats, samples).any()
    assert compiled(feats, samples).any()
    torch._dynamo.reset()
