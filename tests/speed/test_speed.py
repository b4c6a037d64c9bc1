import json
import re

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import nn

from mmdet_detr.configs import forget_pretrained
from mmdet_detr.errors import ConfigError
from mmdet_detr.export import export
from mmdet_detr.models.transformer import Attention
from mmdet_detr.reports.speed import markdown
from mmdet_detr.speed.candidates import build, names_of, num_classes, read_config
from mmdet_detr.speed.flops import gflops, multiply_adds
from mmdet_detr.speed.inputs import Inputs
from mmdet_detr.speed.memory import peak_mib
from mmdet_detr.speed.run import Settings, run, spread, summary
from mmdet_detr.speed.stages import INFER_STAGES, TRAIN_STAGES, Trainer, infer, loss_clock

TINY = str(ROOT / 'configs' / 'detr' / 'detr_tiny_shapes_plain.py')
TINY_MASKS = str(ROOT / 'configs' / 'detr' / 'detr_tiny_panoptic_shapes.py')
TOOL = ROOT / 'tools' / 'benchmark.py'
CPU = ('cpu', torch.float32)
PNG = b'\x89PNG'


@pytest.fixture
def inputs() -> Inputs:
    return Inputs((64, 96), batch=2, objects=3, num_classes=3)


class Products(nn.Module):
    """An attention layer that uses its memory as keys and values."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        out = self.attention(query, memory, memory)
        return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize('attention', [Attention(32, 4, 0.0), nn.MultiheadAttention(32, 4, batch_first=True)])
def test_multiply_adds_of_attention_by_hand(attention):
    batch, queries, keys, channels = 2, 5, 11, 32
    projections = batch * (2 * queries + 2 * keys) * channels**2  # query and output, key and value
    products = batch * 2 * queries * keys * channels  # queries with keys, and weights with values
    counted = multiply_adds(
        Products(attention).eval(), torch.randn(batch, queries, channels), torch.randn(batch, keys, channels)
    )
    assert counted == projections + products


def test_multiply_adds_of_a_detector_by_hand():
    """The counts of transformer and head are computed by hand; the analyzer counts the backbone alone."""
    candidate = build(TINY, None, *CPU)
    one = Inputs((64, 96), batch=1, objects=3, num_classes=3)
    c, hidden, queries, cells, classes = 64, 256, 10, 8 * 12, 4
    attention = lambda q, s: (2 * q + 2 * s) * c**2 + 2 * q * s * c  # noqa: E731
    mlp = lambda n: 2 * n * c * hidden  # noqa: E731
    norm = 5 * c  # the analyzer counts 5 operations for each normalised value
    encoder = attention(cells, cells) + mlp(cells) + 2 * cells * norm
    decoder = attention(queries, queries) + attention(queries, cells) + mlp(queries) + 4 * queries * norm
    head = queries * (c * classes + 2 * c**2 + c * 4)
    candidate.model.eval()
    backbone = multiply_adds(candidate.model.backbone, torch.zeros(1, 3, 64, 96))
    by_hand = backbone + cells * 64 * c + encoder + 3 * (decoder + head)
    assert gflops(candidate, one) * 1e9 == pytest.approx(by_hand, rel=1e-3)


def test_stages_of_training_and_inference(inputs):
    candidate = build(TINY, None, *CPU)
    before = [parameter.clone() for parameter in candidate.model.parameters()]
    assert tuple(infer(candidate, inputs)) == INFER_STAGES
    assert all(torch.equal(a, b) for a, b in zip(before, candidate.model.parameters(), strict=True))
    stages = Trainer(candidate).step(inputs)
    assert tuple(stages) == TRAIN_STAGES
    assert min(stages.values()) > 0
    changed = [not torch.equal(a, b) for a, b in zip(before, candidate.model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_a_detector_with_masks():
    candidate = build(TINY_MASKS, None, *CPU)
    with_masks = Inputs((64, 96), batch=2, objects=3, num_classes=7, masks=candidate.with_masks)
    sample = with_masks.read()['data_samples'][0]
    boxes, masks = sample.gt_instances.bboxes.tensor, sample.gt_instances.masks
    np.testing.assert_allclose(masks.masks.sum((1, 2)), (boxes[:, 2:] - boxes[:, :2]).prod(1), rtol=0.1)
    assert gflops(candidate, with_masks) > gflops(build(TINY, None, *CPU), with_masks)
    infer(candidate, with_masks)
    trainer, seconds = Trainer(candidate), {}
    for name in ('mask_loss', 'match_loss'):  # without its clock, a loss counts as forward
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('mmdet_detr.speed.stages.LOSS_METHODS', (name,))
            patch.setattr('mmdet_detr.speed.stages.LOSS_PARTS', ())
            seconds[name] = trainer.step(with_masks)['loss']
    assert min(seconds.values()) > 0


def test_clock_of_losses_counts_nested_methods_once_and_leaves_no_trace():
    class Head(nn.Module):
        def loss_by_feat(self) -> None:
            self.get_targets()

        def get_targets(self) -> None:
            torch.randn(200, 200) @ torch.randn(200, 200)

    head = Head()
    with loss_clock(head, torch.device('cpu')) as seconds:
        head.loss_by_feat()
        once = seconds()
        head.get_targets()
        twice = seconds()
    assert 0 < once < twice
    assert 'loss_by_feat' not in vars(head)
    with pytest.raises(ZeroDivisionError), loss_clock(head, torch.device('cpu')):
        raise ZeroDivisionError
    assert 'get_targets' not in vars(head)


def test_every_detector_gets_the_same_images(inputs, tmp_path):
    first, second = inputs.read(), inputs.read()
    assert [tuple(image.shape) for image in first['inputs']] == [(3, 64, 96)] * 2
    for a, b in zip(first['inputs'], second['inputs'], strict=True):
        assert torch.equal(a, b)
    boxes = first['data_samples'][1].gt_instances.bboxes
    assert len(boxes) == 3
    with pytest.raises(ConfigError, match='no images'):
        Inputs((64, 96), 1, 3, 3, tmp_path)


def test_numbers_of_a_row():
    slow = [
        {'preprocessing': 1.0, 'model': 2.0},
        {'preprocessing': 1.0, 'model': 4.0},
        {'preprocessing': 1, 'model': 6},
    ]
    fast = [
        {'preprocessing': 1.0, 'model': 1.0},
        {'preprocessing': 1.0, 'model': 1.0},
        {'preprocessing': 1, 'model': 2},
    ]
    row = summary(fast, slow, batch=2, only='model')
    assert row['times_first'] == [3.0, 2.5, 3.5]  # median and quartiles of the ratios 2, 4 and 3
    assert summary(fast, None, batch=2, only=None)['times_first'] is None
    assert row['images_a_second'] == [2.0, 1.5, 2.0]
    assert row['total'] == [2.0, 2.0, 2.5]
    assert spread([5.0]) == [5.0, 5.0, 5.0]


def test_others_are_measured_where_one_fails():
    failed = []
    steps = []
    settings = Settings(['nowhere.py', TINY], [None, None], sizes=[(64, 64)], rounds=1, warmup=0, memory=False)
    *_, rows = run(
        settings, lambda text, number: steps.append(number), lambda name, error: failed.append((name, str(error)))
    )
    assert failed == [('nowhere.py', 'no such file: nowhere.py')]
    assert [(row['detector'], row['mode']) for row in rows] == [
        ('detr_tiny_shapes_plain', mode) for mode in ('infer', 'train')
    ]
    assert sum(steps) <= settings.steps


def test_config_of_a_package_and_what_is_none(tmp_path):
    assert read_config('mmdet::detr/detr_r50_8xb2-150e_coco.py').model.type == 'DETR'
    with pytest.raises(ConfigError, match=r'no such config: mmdet::detr/nowhere\.py'):
        read_config('mmdet::detr/nowhere.py')
    empty = tmp_path / 'empty.py'
    empty.write_text('a = 1\n')
    with pytest.raises(ConfigError, match='it has no model'):
        read_config(str(empty))
    with pytest.raises(ConfigError, match=r'no such file: weights\.pth'):
        build(TINY, 'weights.pth', *CPU)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match='no CUDA device'):
            build(TINY, None, 'cuda', torch.float32)


def test_nothing_is_fetched_and_classes_are_found():
    config = read_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    forget_pretrained(config.model)
    assert 'Pretrained' not in str(config.model)
    assert num_classes(config.model) == 80
    assert num_classes({'type': 'X'}) == 80
    assert num_classes(read_config(TINY).model) == 3


def test_peer_of_transformers(inputs):
    pytest.importorskip('transformers', minversion='5', reason='needs transformers 5')
    candidate = build(str(ROOT / 'configs' / 'peers' / 'detr_r50_transformers.py'), None, *CPU)
    trained = {name for name, p in candidate.model.named_parameters() if p.requires_grad and 'backbone' in name}
    assert {re.search(r'stages\.(\d)', name)[1] for name in trained} == {'1', '2', '3'}
    stages = Trainer(candidate).step(inputs)
    assert stages['loss'] > 0
    infer(candidate, inputs)
    ours = build(str(ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'), None, *CPU)
    sizes = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (candidate.model, ours.model)]
    assert sizes[0] == sizes[1]


def test_command(run_python, tmp_path):
    command = ['--size', '64x64', '--rounds', '2', '--warmup', '0', '--threads', '1', '--out', tmp_path]
    done = run_python(TOOL, TINY, 'nowhere.py', '--dtype', 'float32', 'bfloat16', '--no-memory', *command)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count('benchmark: nowhere.py: no such file: nowhere.py') == 1
    results = json.loads((tmp_path / 'benchmark.json').read_text())
    assert [(row['mode'], row['dtype']) for row in results['rows']] == [
        (mode, dtype) for mode in ('infer', 'train') for dtype in ('float32', 'bfloat16')
    ]
    assert all(row['parameters'] > 0 and row['gflops'] > 0 for row in results['rows'])
    assert results['failed'] == {'nowhere.py': 'no such file: nowhere.py'}
    assert (tmp_path / 'benchmark.md').read_text().count('| detr_tiny_shapes_plain |') == 4
    assert (tmp_path / 'stages.png').read_bytes().startswith(PNG)
    assert not (tmp_path / 'memory.png').exists()
    done = run_python(TOOL, TINY, '--mode', 'infer', *command)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / 'benchmark.json').read_text())['rows']
    assert 1 < row['memory_mib'] < 200
    assert (tmp_path / 'memory.png').read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--size', '64'], 'invalid HEIGHTxWIDTH value'),
        (['--rounds', '0'], 'must be at least 1'),
        (['--checkpoint', 'a', 'b'], '1 configs, but 2 checkpoints'),
        (['--mode', 'sleep'], 'invalid choice'),
    ],
)
def test_command_on_bad_input(run_python, options, message):
    done = run_python(TOOL, TINY, *options)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.operators
def test_faster_rcnn_of_the_demonstration(inputs):
    for name in ('tiny_shapes', 'r18_bccd'):
        candidate = build(str(ROOT / 'configs' / 'faster_rcnn' / f'faster-rcnn_{name}.py'), None, *CPU)
        infer(candidate, inputs)
        assert Trainer(candidate).step(inputs)['loss'] > 0


def test_names_tell_detectors_apart():
    assert names_of(['a/x.py', 'b/x.py', 'mmdet::c/x.py', 'y.py']) == ['x (1)', 'x (2)', 'mmdet::x', 'y']


def test_memory_is_that_of_the_model_and_not_of_its_measurer():
    """A process inherits the peak of its parent, so the measurement has to reset it."""
    held = torch.ones(400 * 2**18)  # 400 MiB
    settings = {'path': TINY, 'mode': 'infer', 'device': 'cpu', 'dtype': 'float32', 'size': (64, 64), 'batch': 1}
    mib = peak_mib(**settings, objects=1, threads=1)
    assert len(held)
    assert 1 < mib < 200
    with pytest.raises(RuntimeError, match='no such file: nowhere'):
        peak_mib(**{**settings, 'path': 'nowhere.py'}, objects=1, threads=1)


def test_inference_is_measured_before_training_changes_weights():
    modes = [mode for _, _, mode in Settings([TINY], [None], sizes=[(64, 64), (32, 32)], batches=[1, 2]).cases]
    assert modes == ['infer'] * 4 + ['train'] * 4


def test_devices_that_cannot_be_timed_are_refused():
    with pytest.raises(ConfigError, match='neither cpu nor cuda'):
        build(TINY, None, 'mps', torch.float32)


def test_exported_files_beside_configs(tmp_path):
    """They have a type of their own, are not trained, and have neither parameters nor operations to count."""
    model = build(TINY, None, *CPU).model
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'tiny.pth')
    file = export(TINY, tmp_path / 'tiny.pth', tmp_path / 'tiny.pt', bf16=True, checked=False).files[0]
    assert names_of([TINY, str(file)]) == ['detr_tiny_shapes_plain', 'tiny.pt']
    settings = Settings(
        [TINY, str(file)],
        [None, None],
        dtypes=['float32', 'bfloat16'],
        sizes=[(64, 64)],
        rounds=1,
        warmup=0,
        memory=False,
    )
    steps, failed = [], []
    *_, rows = run(settings, lambda text, count: steps.append(count), lambda *error: failed.append(error))
    assert not failed
    assert sum(steps) == settings.steps
    kinds = [(row['detector'], row['dtype'], row['mode']) for row in rows]
    assert kinds.count(('tiny.pt', 'bfloat16', 'infer')) == 1
    assert [kind for kind in kinds if kind[0] == 'tiny.pt'] == [('tiny.pt', 'bfloat16', 'infer')]
    assert len(kinds) == 5
    of_file = next(row for row in rows if row['detector'] == 'tiny.pt')
    assert (of_file['parameters'], of_file['gflops']) == (None, None)
    assert '| tiny.pt | bfloat16 |' in markdown({'rows': rows, 'command': '', 'machine': '', 'rounds': 1})
    with pytest.raises(ConfigError, match='measured on a CPU and has its own weights'):
        build(str(file), str(tmp_path / 'tiny.pth'), *CPU)
