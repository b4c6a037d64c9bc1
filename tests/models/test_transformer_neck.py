import copy
import math
from collections.abc import Callable

import pytest
import torch
from helpers import make_sample
from mmdet.registry import MODELS
from torch import nn

from mmdet_detr.errors import ConfigError
from mmdet_detr.models import TransformerNeck, attention_weights
from mmdet_detr.models.queries import LearntQueries, QuerySets, split_sets
from mmdet_detr.models.transformer import Attention

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
    output = TransformerNeck(**SMALL).eval()([torch.randn(2, 24, 3, 5)])
    assert output.hidden.shape == (3, 2, 7, 32)
    assert output.source.shape == output.memory.shape == (2, 15, 32)
    assert output.mask is None
    assert output.grid_sizes == [(3, 5)]


def test_reads_the_last_level():
    neck = TransformerNeck(**SMALL).eval()
    level = torch.randn(1, 24, 3, 5)
    assert torch.equal(neck([torch.randn(1, 9, 6, 10), level]).hidden, neck([level]).hidden)


@pytest.mark.parametrize('level', [0, 1, -1, -2])
def test_reads_one_level_by_index(level):
    neck = TransformerNeck(**SMALL, levels=level).eval()
    levels = [torch.randn(1, 24, 6, 10), torch.randn(1, 24, 3, 5)]
    alone = TransformerNeck(**SMALL).eval()
    alone.load_state_dict(neck.state_dict())  # The names are those of published weights.
    assert torch.equal(neck(levels).hidden, alone([levels[level]]).hidden)


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
    hidden = neck(feats, samples).hidden
    assert hidden.shape == (3, 2, 7, 32)
    torch.testing.assert_close(swapped(feats, samples).hidden, hidden)


def test_every_level_and_its_embedding_matter():
    neck = TransformerNeck(**LEVELS, levels=(0, 1)).eval()
    feats = [torch.randn(1, 24, 6, 10), torch.randn(1, 16, 3, 5)]
    hidden = neck(feats).hidden
    for level in (0, 1):
        changed = list(feats)
        changed[level] = feats[level] + 1
        assert not torch.allclose(neck(changed).hidden, hidden)
    neck.level_embed.weight.data[1] += 1
    assert not torch.allclose(neck(feats).hidden, hidden)


@pytest.mark.parametrize('input_norm', [False, True])
def test_padded_cells_of_several_levels_have_no_influence(input_norm):
    """The image of 80 x 160 pixels has padded cells on the finer level only."""
    neck = TransformerNeck(**LEVELS, levels=(0, 1), input_norm=input_norm).eval()
    samples = [make_sample((96, 160)), make_sample((80, 160), (96, 160))]
    feats = [torch.randn(2, 24, 6, 10), torch.randn(2, 16, 3, 5)]
    fine = feats[0].clone()
    fine[1, :, 5:] = 1e3
    torch.testing.assert_close(neck([fine, feats[1]], samples).hidden, neck(feats, samples).hidden, rtol=0, atol=0)
    coarse = feats[1].clone()
    coarse[1, :, 2:] = 1e3
    assert not torch.allclose(neck([feats[0], coarse], samples).hidden, neck(feats, samples).hidden)


def test_input_norm_takes_scale_and_offset_of_a_level_away():
    neck = TransformerNeck(**LEVELS, levels=(0, 1), input_norm=True).double().eval()
    assert {name.split('.')[0] for name in neck.state_dict()} >= {'input_norm', 'input_proj', 'level_embed'}
    for projection in neck.input_proj:
        nn.init.zeros_(projection.bias)
    feats = [torch.randn(1, 24, 6, 10).double(), torch.randn(1, 16, 3, 5).double()]
    torch.testing.assert_close(neck([feats[0] * 50, feats[1]]).hidden, neck(feats).hidden, rtol=1e-3, atol=1e-3)
    plain = TransformerNeck(**LEVELS, levels=(0, 1)).double().eval()
    assert not torch.allclose(plain([feats[0] * 50, feats[1]]).hidden, plain(feats).hidden, rtol=1e-3, atol=1e-3)


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
    torch.testing.assert_close(neck([changed], samples).hidden, neck([feats], samples).hidden, rtol=0, atol=0)


def test_padded_image_equals_the_image_alone():
    neck = TransformerNeck(**SMALL).eval()
    feats = torch.randn(1, 24, 2, 3)
    padded = torch.randn(2, 24, 3, 5)
    padded[1, :, :2, :3] = feats[0]
    hidden = neck([padded], [make_sample((96, 160)), make_sample((64, 96), (96, 160))]).hidden
    torch.testing.assert_close(hidden[:, 1:], neck([feats]).hidden, rtol=0, atol=1e-5)


def test_batch_of_equal_sizes_equals_single_images():
    neck = TransformerNeck(**SMALL).eval()
    feats = torch.randn(3, 24, 3, 5)
    single = torch.cat([neck([feats[i : i + 1]]).hidden for i in range(3)], dim=1)
    torch.testing.assert_close(neck([feats]).hidden, single, rtol=0, atol=1e-5)


def test_dropout_only_in_training():
    neck = TransformerNeck(**SMALL, dropout=0.5)
    feats, samples = [torch.randn(1, 24, 3, 5)], [make_sample((96, 160))]
    assert not torch.equal(neck(feats, samples).hidden, neck(feats, samples).hidden)
    neck.eval()
    assert torch.equal(neck(feats).hidden, neck(feats).hidden)


def test_attention_equals_pytorch():
    ours = Attention(32, 4, 0.0)
    nn.init.xavier_uniform_(ours.in_proj_weight)
    nn.init.normal_(ours.in_proj_bias)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())  # the same names and shapes
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 9, 32), torch.randn(2, 9, 32)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    mask = ~padding[:, None, None]
    expected, weights = theirs(query, key, value, key_padding_mask=padding, average_attn_weights=False)
    torch.testing.assert_close(ours(query, key, value, mask), expected)
    torch.testing.assert_close(ours.weights(query, key, value, mask), weights)


def sets_of_queries() -> list[QuerySets]:
    """One set of five queries, and three sets of two, one of which looks at its first query only."""
    mask = torch.ones(2, 3, 1, 2, dtype=torch.bool)
    mask[:, 1, 0, 1] = False
    content, pos = torch.randn(2, 2, 3, 2, 32)
    return [LearntQueries(5, 32)(batch_size=2), QuerySets(content, pos, mask)]


def test_sets_of_queries_do_not_see_each_other():
    """Decoded together, every set has the hidden states that it has alone."""
    decoder = TransformerNeck(**SMALL).eval().decoder
    memory, pos = torch.randn(2, 6, 32), torch.randn(1, 6, 32)
    padding = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    sets = sets_of_queries()
    together = split_sets(decoder(sets, memory, pos, padding), sets)
    assert [hidden.shape for hidden in together] == [(3, 2, 1, 5, 32), (3, 2, 3, 2, 32)]
    for queries, hidden in zip(sets, together, strict=True):
        for group in range(queries.pos.shape[1]):
            alone = QuerySets(*(None if x is None else x[:, group : group + 1] for x in queries))
            torch.testing.assert_close(hidden[:, :, group], decoder([alone], memory, pos, padding))


def test_masked_queries_have_no_influence():
    decoder = TransformerNeck(**SMALL).eval().decoder
    memory, pos = torch.randn(2, 6, 32), torch.randn(1, 6, 32)
    _, queries = sets_of_queries()
    changed = queries._replace(content=queries.content.clone())
    changed.content[:, :, 1] += 1
    before, after = (split_sets(decoder([sets], memory, pos, None), [sets])[0] for sets in (queries, changed))
    assert torch.equal(before[:, :, 1, 0], after[:, :, 1, 0])
    assert not torch.allclose(before[:, :, 0, 0], after[:, :, 0, 0])


def test_attention_weights_of_every_layer():
    """They sum to 1 on the cells of the image, and the outputs stay what they are."""
    neck = TransformerNeck(**SMALL).eval()
    samples = [make_sample((96, 160)), make_sample((64, 96), (96, 160))]
    feats = [torch.randn(2, 24, 3, 5)]
    with attention_weights(neck) as weights:
        output = neck(feats, samples)
    assert torch.equal(output.hidden, neck(feats, samples).hidden)
    layers = [f'encoder.layers.{i}.self_attn' for i in range(2)]
    layers += [f'decoder.layers.{i}.{name}' for i in range(3) for name in ('self_attn', 'multihead_attn')]
    assert list(weights) == layers
    assert weights['encoder.layers.0.self_attn'].shape == (2, 4, 15, 15)
    assert weights['decoder.layers.2.self_attn'].shape == (2, 4, 7, 7)
    last = weights['decoder.layers.2.multihead_attn']
    assert last.shape == (2, 4, 7, 15)
    torch.testing.assert_close(last.sum(-1), torch.ones(2, 4, 7))
    assert not last[1][..., ~output.mask[1]].any()
    assert not last.requires_grad


def test_attention_weights_end_with_the_context():
    neck = TransformerNeck(**SMALL).eval()
    with pytest.raises(ZeroDivisionError), attention_weights(neck) as weights:
        raise ZeroDivisionError
    neck([torch.randn(1, 24, 3, 5)])
    assert weights == {}


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
        neck(feats, samples).hidden.square().sum().backward()
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
def test_compiled_for_few_kinds_of_batches_and_no_size():
    """Padding and the number of images need graphs of their own, but sizes do not; a copy runs without graphs."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    small = {**SMALL, 'num_encoder_layers': 1, 'num_decoder_layers': 1, 'dropout': 0.0}
    plain, compiled = TransformerNeck(**small), TransformerNeck(**small, compile={'backend': backend})
    compiled.load_state_dict(plain.state_dict())
    numbers = []
    for _ in range(2):
        for batch, size, padded in BATCHES:
            feats, samples = [torch.randn(batch, 24, *size)], padded_or_not(batch, size, padded)
            outputs = [neck(feats, samples).hidden for neck in (plain, compiled)]
            torch.testing.assert_close(outputs[0], outputs[1])
        numbers.append(len(graphs))
    assert 0 < numbers[0] <= 8  # encoder and decoder together
    assert numbers[1] == numbers[0]
    other = copy.deepcopy(compiled)
    assert torch.equal(other(feats, samples).hidden, compiled(feats, samples).hidden)
    with attention_weights(compiled) as weights:
        compiled(feats, samples)
    assert len(weights) == 3
    torch._dynamo.reset()
