"""Exported files compute what the model computes, padded batches above all, or are refused."""

import functools
import hashlib
import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from detectors import CLASSES, RESIZE, save_checkpoint, small_config, write_images
from helpers import BCCD, ROOT
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor

import mmdet_detr
from mmdet_detr.errors import CheckpointError, ConfigError, UserError
from mmdet_detr.export import Exported, ExportedDetector, check, export, exporter, formats
from mmdet_detr.export.deployable import Deployable
from mmdet_detr.export.formats import Shape, open_file
from mmdet_detr.models import DETR

NEEDS = {'.onnx': 'onnxruntime', '.xml': 'openvino', '.pt': 'torch', '.pt2': 'torch'}
LIMITS = {'.onnx': 2e-4, '.xml': 1e-4, '.pt': 1e-5, '.pt2': 1e-5}  # in logits


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f'needs {package}')


def skips(suffix: str) -> list[pytest.MarkDecorator]:
    """Where a format cannot be tested."""
    if suffix in ('.onnx', '.xml'):
        return [needs(NEEDS[suffix]), needs('onnx')]
    free = suffix == '.pt' or hasattr(getattr(torch.export, 'Dim', None), 'DYNAMIC')
    return [pytest.mark.skipif(not free, reason=f'PyTorch {torch.__version__} exports no free sizes')]


def param(suffix: str, *before: str, slow: bool = False) -> object:
    return pytest.param(*before, suffix, marks=[*skips(suffix), *([pytest.mark.slow] if slow else [])])


FORMATS = [param(suffix) for suffix in NEEDS]
QUICK = [param(suffix, slow=suffix == '.pt2') for suffix in NEEDS]  # torch.export takes seconds
Export = Callable[..., Exported]


def with_dropout(panoptic: bool = False) -> Config:
    """Unlike the demonstration's, as every network of the paper."""
    config = small_config(panoptic)
    config.model.neck.dropout = 0.1
    return config


@pytest.fixture(scope='session')
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export the run of a fixture; once for all tests."""

    @functools.cache
    def export_once(kind: str, suffix: str, **options: object) -> Exported:
        path = tmp_path_factory.mktemp('exported') / f'a{suffix}'
        return export(request.getfixturevalue(kind), None, path, **options)

    return export_once


def batch(size: tuple[int, int], *images: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A padded batch of normalised noise."""
    generator = torch.Generator().manual_seed(sum(size))
    inputs = torch.zeros(len(images), 3, *size)
    for padded, (height, width) in zip(inputs, images, strict=True):
        padded[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    return inputs, torch.tensor(images)


BATCHES = (
    batch((64, 64), (64, 64)),
    batch((61, 107), (61, 107), (61, 107)),
    batch((75, 66), (75, 40), (31, 66), (75, 66), (1, 1)),
)


def by_samples(model: DETR, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    """What the model gives for mmdet's data samples, which tell the padding on the host."""
    samples = [
        DetDataSample(metainfo={'img_shape': tuple(size), 'batch_input_shape': tuple(images.shape[2:])})
        for size in sizes.tolist()
    ]
    with torch.no_grad():
        logits, boxes, *masks = model(images, samples)
    return (logits[-1], boxes[-1], *masks)


@pytest.mark.parametrize('suffix', QUICK)
@pytest.mark.parametrize('kind', ['run', 'panoptic_run', pytest.param('big_run', marks=pytest.mark.slow)])
def test_padded_batches(kind, suffix, request, exported):
    folder = request.getfixturevalue(kind)
    compute, _ = open_file(exported(kind, suffix, raw=True).files[0], threads=1)
    model = mmdet_detr.load(folder, device='cpu').model
    for images, sizes in BATCHES:
        expected = by_samples(model, images, sizes)
        outputs = [torch.from_numpy(output) for output in compute(images.numpy(), sizes.numpy())]
        assert [output.shape for output in outputs] == [other.shape for other in expected]
        assert (outputs[0] - expected[0]).abs().max() < 5 * LIMITS[suffix]  # weights that make much of rounding
        assert ((outputs[1] - expected[1]) * sizes.flip(1).repeat(1, 2)[:, None]).abs().max() < 0.01
        for output, other in zip(outputs[2:], expected[2:], strict=True):
            assert (output - other).abs().max() < 1e-3


@pytest.mark.parametrize(
    ('kind', 'suffix'),
    [*(param(suffix, 'run') for suffix in NEEDS), *(param(suffix, 'panoptic_run') for suffix in ('.onnx', '.pt'))],
)
def test_detections_are_those_of_predict(kind, suffix, request, exported):
    file = exported(kind, suffix)
    assert file.differences.keys() == {'scores', 'boxes'} | ({'masks'} if kind == 'panoptic_run' else set())
    assert file.metadata['difference'] == file.differences
    model = mmdet_detr.load(request.getfixturevalue(kind), device='cpu').model
    images, sizes = batch((75, 66), (75, 40), (31, 66), (75, 66))
    found = ExportedDetector(str(file.files[0]), threads=1)(images, samples_of(sizes))
    with torch.no_grad():
        expected = model.predict(images, samples_of(sizes))
    for sample, other in zip(found, expected, strict=True):
        ours, theirs = sample.pred_instances, other.pred_instances
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert len(set(ours.labels.tolist())) > 1
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=2e-4)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, rtol=0, atol=0.02)
        if kind == 'panoptic_run':
            # Masks of random weights lie close together; TorchScript computes the same to the last bit.
            limit = 0 if suffix == '.pt' else 0.15
            assert (ours.masks != theirs.masks).float().mean() <= limit
            assert (sample.pred_panoptic_seg.sem_seg != other.pred_panoptic_seg.sem_seg).float().mean() <= limit


def samples_of(sizes: Tensor) -> list[DetDataSample]:
    """Of images that were half as large before they were resized."""
    return [
        DetDataSample(
            metainfo={
                'img_shape': (height, width),
                'ori_shape': (height // 2, width // 2),
                'scale_factor': (width / (width // 2), height / (height // 2)) if min(height, width) > 1 else (1, 1),
                'batch_input_shape': (75, 66),
            }
        )
        for height, width in sizes.tolist()
    ]


@pytest.mark.parametrize('suffix', QUICK)
def test_pixels_and_fixed_shapes(run, suffix, exported):
    """``--uint8 --size 80 96 --batch 2``: normalised inside, and any number of smaller images all the same."""
    file = exported('run', suffix, uint8=True, shape=Shape(2, 80, 96))
    assert file.metadata['shape'] == [2, 80, 96]
    detector = ExportedDetector(str(file.files[0]))
    generator = torch.Generator().manual_seed(0)
    sizes = [(75, 40), (31, 96), (80, 66)]
    pixels = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    samples = [DetDataSample(metainfo={'img_shape': size, 'ori_shape': size}) for size in sizes]
    model = mmdet_detr.load(run, device='cpu').model
    found = detector.test_step({'inputs': pixels, 'data_samples': samples})
    samples = [DetDataSample(metainfo={'img_shape': size, 'ori_shape': size}) for size in sizes]
    with torch.no_grad():
        expected = model.test_step({'inputs': pixels, 'data_samples': samples})
    for sample, other in zip(found, expected, strict=True):
        assert sample.pred_instances.labels.tolist() == other.pred_instances.labels.tolist()
        torch.testing.assert_close(sample.pred_instances.scores, other.pred_instances.scores, rtol=0, atol=3e-4)
    alone = [detector.test_step({'inputs': [pixels[2]], 'data_samples': [samples[2]]})[0].pred_instances]
    torch.testing.assert_close(alone[0].scores, found[2].pred_instances.scores, rtol=0, atol=1e-5)
    too_large = {'inputs': [torch.zeros(3, 81, 20, dtype=torch.uint8)], 'data_samples': [samples[0].clone()]}
    with pytest.raises(ConfigError, match='the file takes images of 80x96 pixels, got 81x20'):
        detector.test_step(too_large)


def test_uint8_is_normalised_as_by_mmdet(run, tmp_path):
    exported = export(run, None, tmp_path / 'a.pt', uint8=True, raw=True)
    compute, _ = open_file(exported.files[0])
    sizes = [(60, 40), (31, 66)]
    pixels = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    model = mmdet_detr.load(run, device='cpu').model
    samples = [DetDataSample(metainfo={'img_shape': size, 'ori_shape': size}) for size in sizes]
    data = model.data_preprocessor({'inputs': pixels, 'data_samples': samples})
    expected = by_samples(model, data['inputs'], torch.tensor(sizes))
    padded = torch.full((2, 3, 60, 66), 77, dtype=torch.uint8)  # what stands in the padding does not matter
    for image, own in zip(padded, pixels, strict=True):
        image[:, : own.shape[1], : own.shape[2]] = own.flip(0)  # the file takes RGB
    logits, boxes = compute(padded.numpy(), np.array(sizes))
    np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    np.testing.assert_allclose(boxes, expected[1], atol=1e-5)


@pytest.mark.parametrize('suffix', FORMATS)
def test_metadata(run, suffix, exported):
    path = exported('run', suffix).files[0]
    _, metadata = open_file(path)
    weights = run / 'iter_7.pth'
    expected = {
        'format_version': 1,
        'mmdet_detr': mmdet_detr.__version__,
        'config': 'config',
        'classes': list(CLASSES),
        'palette': [[220, 20, 60], [0, 130, 200], [255, 190, 0]],
        'channel_order': 'rgb',
        'resize': {'shortest': RESIZE['sizes'][0], 'longest': RESIZE['longest']},
        'pad_size_divisor': 1,
        'uint8': False,
        'raw': False,
        'precision': 'float32',
        'score_thr': 0.5,
        'checkpoint': 'iter_7.pth',
        'checkpoint_sha256': hashlib.sha256(weights.read_bytes()).hexdigest(),
        'shape': [None, None, None],
    }
    assert {key: metadata[key] for key in expected} == expected
    assert metadata['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert metadata['std'] == pytest.approx([58.395, 57.12, 57.375])
    assert metadata['difference']['boxes'] < 0.01
    assert path.with_name('detr_runtime.py').exists() == (suffix in ('.onnx', '.xml'))


@pytest.mark.parametrize('suffix', [param('.onnx')])
@pytest.mark.parametrize('kind', ['run', 'panoptic_run'])
def test_onnx_has_standard_operators_only(kind, suffix, exported):
    import onnx

    model = onnx.load(exported(kind, suffix).files[0])
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [('', 17)]
    assert {node.domain for node in model.graph.node} == {''}
    free = [[dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim] for entry in model.graph.input]
    assert free == [['B', 3, 'H', 'W'], ['B', 2]]


@needs('onnxscript')
@pytest.mark.parametrize('suffix', [param('.onnx')])
def test_dynamo_where_the_older_exporter_is_gone(run, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, 'find_spec', lambda name: None)
    assert export(run, None, tmp_path / f'a{suffix}').differences['boxes'] < 0.01


def test_a_trace_without_sizes_is_refused(run):
    model = mmdet_detr.load(run, device='cpu').model
    images, sizes = BATCHES[2]
    with pytest.raises(ConfigError, match=r'trace a DETR by model\(images, sizes\).*would ignore padding'):
        torch.jit.trace(model, images)
    if find_spec('onnx'):
        with pytest.raises(ConfigError, match='would ignore padding'):
            torch.onnx.export(model, (images,), '/dev/null', **({'dynamo': False} if torch.__version__ > '2.5' else {}))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with torch.no_grad():
            traced = torch.jit.trace(model, (images, sizes), check_trace=False)
    for images, sizes in BATCHES:
        expected = by_samples(model, images, sizes)
        with torch.no_grad():
            outputs = traced(images, sizes)
        for output, other in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output[-1], other, rtol=0, atol=1e-5)


def test_a_trace_with_padded_samples_is_refused(run):
    """Its padding would be that of the example for ever. Without padding, mmengine counts operations by it."""
    model = mmdet_detr.load(run, device='cpu').model
    images, sizes = BATCHES[2]
    padded = [
        DetDataSample(metainfo={'img_shape': tuple(size), 'batch_input_shape': (75, 66)}) for size in sizes.tolist()
    ]
    model.forward = functools.partial(model.forward, data_samples=padded)
    with pytest.raises(ConfigError, match='would become a constant'):
        torch.jit.trace(model, images)


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'), reason='this PyTorch does not tell')
@pytest.mark.parametrize('strict', [False, True])
def test_torch_export_leaves_nothing_behind(run, strict):
    """Tensors that only exist in a trace must not come up in later calls, of this or another model."""
    model = mmdet_detr.load(run, device='cpu').model
    images, sizes = BATCHES[2]
    before = by_samples(model, images, sizes)
    with pytest.raises(Exception, match='would ignore padding'):
        torch.export.export(model, (images,), strict=strict)
    program = torch.export.export(model, (images, sizes), strict=strict)
    for output, other in zip(program.module()(images, sizes), before, strict=True):
        torch.testing.assert_close(output[-1], other, rtol=0, atol=1e-5)
    for any_model in (model, mmdet_detr.load(run, device='cpu').model):
        for output, other in zip(by_samples(any_model, images, sizes), before, strict=True):
            assert type(output) is Tensor
            assert torch.equal(output, other)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        (torch.tensor([[75, 67]]), r'within the batch of \(75, 66\) pixels, got \[\[75, 67\]\]'),
        (torch.tensor([[0, 66]]), 'within the batch'),
        (torch.tensor([[75.0, 66.0]]), r'whole \(height, width\) of 1 images, \(1, 2\), got \(1, 2\) float32'),
        (torch.tensor([75, 66]), r'got \(2,\) int64'),
    ],
)
def test_sizes_that_do_not_fit(run, sizes, message):
    model = mmdet_detr.load(run, device='cpu').model
    with pytest.raises(ConfigError, match=message):
        model(torch.zeros(1, 3, 75, 66), sizes)


def packaged_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another network."""
    path = tmp_path_factory.mktemp('other') / 'other.pth'
    torch.save({'state_dict': {'backbone.conv1.weight': torch.zeros(64, 3, 7, 7)}}, path)
    return path


def test_refusals(run, panoptic_run, tmp_path, tmp_path_factory):
    def refused(*arguments: object, match: str, **options: object) -> None:
        before = sorted(tmp_path.rglob('*'))
        with pytest.raises(UserError, match=match) as caught:
            export(*arguments, **options)
        assert '\n' not in str(caught.value)
        assert sorted(tmp_path.rglob('*')) == before

    out = tmp_path / 'a.pt'
    refused(tmp_path / 'nowhere', None, out, match='no such config or folder of a run')
    refused(run, tmp_path / 'nowhere.pth', out, match='no such checkpoint')
    refused(run, None, tmp_path / 'a.tflite', match=r'ends in .onnx, .xml, .pt2, .pt')
    refused(run, None, tmp_path / 'a.xml', 'onnx', match=r'a file of onnx ends in .onnx')
    refused(
        run, None, tmp_path / 'a.onnx', bf16=True, match='onnx does not compute in bfloat16 on a CPU: use --to open'
    )
    refused(run, None, out, int8_images=tmp_path, match='torchscript does not compute in int8')
    refused(run, None, tmp_path / 'a.xml', bf16=True, int8_images=tmp_path, match='choose one of --int8 and --bf16')
    refused(run, None, out, masks=3, match='this model has no masks')
    refused(panoptic_run, None, out, masks=0, match='give one mask at least')
    refused(run, packaged_weights(tmp_path_factory), out, match='is no checkpoint of a DETR')
    (tmp_path / 'broken.pth').write_bytes(b'PK')
    with pytest.raises(CheckpointError):
        export(run, tmp_path / 'broken.pth', out)
    out.write_text('mine')
    refused(run, None, out, match='exists: overwrite it by --force')
    assert out.read_text() == 'mine'
    export(run, None, out, force=True)
    assert open_file(out)[1]['classes'] == list(CLASSES)


@pytest.mark.parametrize('suffix', [param('.onnx')])
def test_int8_without_images(run, suffix, tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'a.jpg').write_text('no image')
    with pytest.raises(UserError, match='has no images to calibrate int8 with'):
        export(run, None, tmp_path / f'a{suffix}', int8_images=tmp_path / 'images')
    assert not (tmp_path / f'a{suffix}').exists()


def test_other_detectors(tmp_path):
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py')
    config.model = {
        'type': 'RetinaNet',
        'backbone': {'type': 'ResNet', 'depth': 18},
        'neck': {'type': 'FPN', 'in_channels': [64, 128, 256, 512], 'out_channels': 256, 'num_outs': 5},
        'bbox_head': {'type': 'RetinaHead', 'num_classes': 3, 'in_channels': 256},
    }
    from mmdet.registry import MODELS

    torch.save({'state_dict': MODELS.build(config.model).state_dict()}, tmp_path / 'iter_7.pth')
    config.dump(tmp_path / 'config.py')
    with pytest.raises(ConfigError, match=r'only mmdet_detr.DETR can be exported, not RetinaNet'):
        export(tmp_path / 'config.py', tmp_path / 'iter_7.pth', tmp_path / 'a.pt')


@pytest.mark.parametrize('step', [{'type': 'Resize', 'scale': (90, 48)}, {'type': 'RandomCrop', 'crop_size': (9, 9)}])
def test_a_preprocessing_that_the_runtime_cannot_repeat(step, tmp_path):
    config = small_config()
    config.test_dataloader.dataset.pipeline[1] = step
    save_checkpoint(tmp_path, config)
    config.dump(tmp_path / 'config.py')
    with pytest.raises(ConfigError, match=f'cannot repeat {step["type"]} of the test pipeline'):
        export(tmp_path, None, tmp_path / 'a.pt')


@pytest.mark.parametrize('suffix', QUICK)
def test_two_levels_are_exact_too(suffix, tmp_path):
    config = small_config()
    config.model.backbone.out_indices = (0, 1)
    config.model.neck.update(in_channels=[32, 64], levels=[0, 1])
    save_checkpoint(tmp_path, config)
    config.dump(tmp_path / 'config.py')
    exported = export(tmp_path, None, tmp_path / f'a{suffix}', raw=True)
    compute, _ = open_file(exported.files[0])
    model = mmdet_detr.load(tmp_path, device='cpu').model
    images, sizes = BATCHES[2]
    outputs = compute(images.numpy(), sizes.numpy())
    for output, other in zip(outputs, by_samples(model, images, sizes), strict=True):
        assert np.abs(output - other.numpy()).max() < LIMITS[suffix]


def test_a_file_that_differs_is_not_written(run, tmp_path, monkeypatch):
    """As if an exporter had left something out: here, the weights of a class."""
    kind = formats.format_of(Path('a.pt'))

    def write(module: object, *arguments: object) -> None:
        module.model.bbox_head.class_embed.bias[1] += 0.01
        try:
            kind.write(module, *arguments)
        finally:
            module.model.bbox_head.class_embed.bias[1] -= 0.01

    broken = type(kind)(kind.name, kind.suffix, write, kind.stamp, kind.open, kind.computes, kind.limit)
    monkeypatch.setattr(exporter, 'FORMATS', (broken,))
    monkeypatch.setattr(exporter, 'format_of', lambda path: broken)
    out = tmp_path / 'a.pt'
    with pytest.raises(UserError, match=r'not written: the file differs from the model in scores 0.00.*--no-check'):
        export(run, None, out)
    assert not list(tmp_path.iterdir())
    exported = export(run, None, out, checked=False)
    assert exported.differences is None
    assert 'difference' not in open_file(out)[1]


def test_files_that_are_none_of_ours(tmp_path):
    for name, content in (
        ('a.onnx', b''),
        ('b.onnx', b'text'),
        ('c.xml', b'<net/>'),
        ('d.pt', b'PK'),
        ('e.pt2', b'PK'),
    ):
        if find_spec(NEEDS[Path(name).suffix]) is None:
            continue
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f'{name} cannot be read') as caught:
            open_file(tmp_path / name)
        assert '\n' not in str(caught.value)
    with pytest.raises(ConfigError, match='no such file'):
        open_file(tmp_path / 'f.onnx')
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / 'g.pt'))
    with pytest.raises(ConfigError, match='holds no metadata of mmdet_detr'):
        open_file(tmp_path / 'g.pt')


def test_raw_files_and_training_are_no_detectors(run, tmp_path):
    path = export(run, None, tmp_path / 'a.pt', raw=True).files[0]
    with pytest.raises(ConfigError, match='gives raw outputs'):
        ExportedDetector(str(path))
    path = export(run, None, tmp_path / 'b.pt').files[0]
    with pytest.raises(ConfigError, match='cannot be trained'):
        ExportedDetector(str(path))(torch.zeros(1, 3, 8, 8), samples_of(torch.tensor([[8, 8]])), mode='loss')


@pytest.mark.parametrize('suffix', [param('.onnx'), param('.xml')])
def test_int8_keeps_the_transformer_in_float(run, suffix, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    write_images(images)
    exported = export(run, None, tmp_path / f'a{suffix}', int8_images=images)
    assert exported.metadata['precision'] == 'int8'
    assert 0 < exported.differences['scores'] < 0.8  # weights that make much of rounding
    if suffix == '.onnx':
        import onnx

        nodes = {output: node for node in onnx.load(exported.files[0]).graph.node for output in node.output}
        int8 = {'in': 0, 'out': 0}
        for node in nodes.values():
            if node.op_type in ('Conv', 'MatMul', 'Gemm'):
                quantised = nodes.get(node.input[0]) is not None and nodes[node.input[0]].op_type == 'DequantizeLinear'
                assert quantised == ('/backbone/' in node.name and node.op_type == 'Conv'), node.name
                int8['in' if quantised else 'out'] += 1
        assert int8['in'] >= 8
        assert int8['out'] >= 8


@pytest.mark.parametrize('suffix', [param('.xml'), param('.pt'), param('.pt2', slow=True)])
def test_bf16(run, suffix, tmp_path):
    exported = export(run, None, tmp_path / f'a{suffix}', bf16=True)
    assert exported.metadata['precision'] == 'bfloat16'
    assert exported.differences['scores'] < 0.8  # weights that make much of rounding
    if suffix != '.xml':  # OpenVINO computes in it only where the processor can
        assert exported.differences['scores'] > 1e-4


def test_predicting_in_bfloat16(run):
    config = Config.fromfile(run / 'config.py')
    exact = mmdet_detr.load(run, device='cpu').model
    config.model.predict_dtype = 'bfloat16'
    rounded = mmdet_detr.load(run, config, device='cpu').model
    images, sizes = batch((75, 66), (75, 66))
    with torch.no_grad():
        ours, theirs = (model.predict(images, samples_of(sizes))[0].pred_instances for model in (rounded, exact))
    assert isinstance(ours, InstanceData)
    assert ours.bboxes.dtype == ours.scores.dtype == torch.float32
    assert 0 < (ours.scores - theirs.scores).abs().max() < 0.3
    config.model.predict_dtype = 'int8'
    with pytest.raises(ConfigError, match="has to be None, 'bfloat16' or 'float16'"):
        mmdet_detr.load(run, config, device='cpu')


@pytest.mark.parametrize('suffix', [param('.onnx'), param('.xml')])
@pytest.mark.skipif(not BCCD.exists(), reason=f'{BCCD} is missing')
@pytest.mark.parametrize('kind', ['run', 'panoptic_run'])
def test_the_runtime_finds_what_mmdet_finds(kind, suffix, request, exported):
    """On photographs of several sizes, resized, in padded batches."""
    from mmdet_detr.export import runtime

    folder = request.getfixturevalue(kind)
    path = exported(kind, suffix).files[0]
    photographs = sorted((BCCD / 'images').glob('*.jpg'))[:3]
    own = np.random.default_rng(0).integers(0, 256, (50, 120, 3), dtype=np.uint8)
    images = [str(photographs[0]), own, str(photographs[1]), str(photographs[2])]
    detector = mmdet_detr.load(folder, device='cpu')
    alone = detector(images, 0)
    prepared = [detector.prepare(detector.read(image)) for image in images]
    data = {key: [inputs[key] for inputs in prepared] for key in ('inputs', 'data_samples')}
    with torch.no_grad():
        together = [detector.result(sample) for sample in detector.model.test_step(data)]
    # Padding changes a little what is found, and a model with masks takes images of one size together.
    assert (together[1].scores.tolist() == alone[1].scores.tolist()) == (kind == 'panoptic_run')
    for expected, batch_size in ((alone, 1), (together, 4)):
        found = runtime.Detector(path, batch_size=batch_size)(images, score_thr=0)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.names == list(theirs.names)
            np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.01)
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
            if kind == 'panoptic_run':
                assert (ours.masks != theirs.masks).mean() < 0.05  # masks of random weights lie close together
    if kind == 'panoptic_run':  # maps of random weights hang on rounding, so they are compared with the file's own
        samples = [inputs['data_samples'].clone() for inputs in prepared]
        data = {'inputs': [inputs['inputs'] for inputs in prepared], 'data_samples': samples}
        for ours, sample in zip(found, ExportedDetector(str(path)).test_step(data), strict=True):
            # Pillow and PyTorch round differently, and a pixel of this small input is a hundred of the photograph.
            assert (ours.panoptic != sample.pred_panoptic_seg.sem_seg[0].numpy()).mean() < 0.01


def test_metadata_are_json(exported):
    file = exported('run', '.pt')
    assert json.loads(json.dumps(file.metadata)) == open_file(file.files[0])[1]


def test_a_checkpoint_that_leaves_something_random(run, panoptic_run, tmp_path):
    with pytest.raises(UserError, match=r'iter_7.pth does not fit the config: .* would be random'):
        export(panoptic_run / 'config.py', run / 'iter_7.pth', tmp_path / 'a.pt')
    content = torch.load(run / 'iter_7.pth', weights_only=False)
    content['meta']['dataset_meta'] = {'classes': ('one', 'two')}
    torch.save(content, tmp_path / 'two.pth')
    with pytest.raises(UserError, match='names 2 classes, and the config has 3'):
        export(run / 'config.py', tmp_path / 'two.pth', tmp_path / 'a.pt')


@pytest.mark.parametrize('part', ['bbox_head.class_embed.bias', 'bbox_head.bbox_embed.layers.2.bias'])
@pytest.mark.parametrize('bf16', [False, True])
def test_nan_is_not_written(run, part, bf16, tmp_path):
    content = torch.load(run / 'iter_7.pth', weights_only=False)
    content['state_dict'][part][0] = torch.nan
    torch.save(content, tmp_path / 'nan.pth')
    with pytest.raises(UserError):
        export(run / 'config.py', tmp_path / 'nan.pth', tmp_path / 'a.pt', bf16=bf16, measure_ap=False)
    assert not (tmp_path / 'a.pt').exists()


def test_the_check_finds_files_that_ignore_padding_or_shift_boxes(run):
    module = Deployable(mmdet_detr.load(run, device='cpu').model)

    def ignores_padding(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        whole = torch.tensor([images.shape[2:]] * len(images))
        with torch.no_grad():
            return [x.numpy() for x in module(torch.from_numpy(images), whole)]

    def shifts_boxes(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            boxes, *others = module(torch.from_numpy(images), torch.from_numpy(sizes))
        return [(boxes + 20).numpy(), *(x.numpy() for x in others)]

    def right(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [x.numpy() for x in module(torch.from_numpy(images), torch.from_numpy(sizes))]

    for shape in (Shape(), Shape(1), Shape(1, 64, 96)):
        assert check.above_limits(check.differences(module, right, shape, 1e-4), 1e-4) == []
        assert check.above_limits(check.differences(module, ignores_padding, shape, 1e-4), 1e-4)
        assert check.differences(module, shifts_boxes, shape, 1e-4)['boxes'] > 1
    # Below what float32 can do, the model's own rounding is the limit; boxes are compared all the same.
    assert not check.above_rounding(module, right, Shape(), 1e-9)
    assert 'boxes' in check.above_rounding(module, shifts_boxes, Shape(), 1e-9)


def test_score_thr_of_the_config(run, tmp_path):
    config = Config.fromfile(run / 'config.py')
    config.model.test_cfg.score_thr = 0.45
    config.dump(tmp_path / 'config.py')
    path = export(tmp_path / 'config.py', run / 'iter_7.pth', tmp_path / 'a.pt').files[0]
    images, sizes = batch((75, 66), (75, 40), (31, 66), (75, 66))
    model = mmdet_detr.load(run / 'iter_7.pth', tmp_path / 'config.py', 'cpu').model
    with torch.no_grad():
        expected = model.predict(images, samples_of(sizes))
    found = ExportedDetector(str(path))(images, samples_of(sizes))
    counts = [len(sample.pred_instances) for sample in found]
    assert counts == [len(sample.pred_instances) for sample in expected]
    assert 0 < sum(counts) < 30


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.test_cfg.max_per_img': 3}, 'a panoptic map needs all 16 queries: set model.test_cfg.max_per_img=16'),
        (
            {'model.bbox_head.loss.loss_cls': {'type': 'FocalLoss', 'use_sigmoid': True, '_delete_': True}},
            'a panoptic model with a sigmoid loss can only be exported with --raw',
        ),
    ],
)
def test_panoptic_models_whose_maps_a_file_cannot_make(options, message, tmp_path):
    config = with_dropout(panoptic=True)
    config.merge_from_dict(options)
    if 'loss_cls' in str(options):
        config.model.bbox_head.training_queries = []
        config.model.bbox_head.dense_supervision = None
    save_checkpoint(tmp_path, config)
    config.dump(tmp_path / 'config.py')
    with pytest.raises(UserError, match=message):
        export(tmp_path, None, tmp_path / 'a.pt')


@pytest.mark.parametrize('suffix', [param('.onnx')])
def test_int8_of_a_fixed_shape(run, suffix, tmp_path):
    import onnx

    (tmp_path / 'images').mkdir()
    write_images(tmp_path / 'images')
    options = {'shape': Shape(2, 64, 96), 'uint8': True, 'measure_ap': False}
    exported = export(run, None, tmp_path / f'a{suffix}', int8_images=tmp_path / 'images', **options)
    assert [entry.domain for entry in onnx.load(exported.files[0]).opset_import] == ['']


def test_nothing_of_others_is_overwritten(run, tmp_path):
    for name, match in (('folder.pt', 'is a folder: name a file'), ('a.pt', 'exists: overwrite it by --force')):
        (tmp_path / 'folder.pt').mkdir(exist_ok=True)
        (tmp_path / 'a.pt').write_text('mine')
        with pytest.raises(UserError, match=match):
            export(run, None, tmp_path / name)
    (tmp_path / 'b.bin').write_text('mine')
    with pytest.raises(UserError, match=r'b\.bin exists'):
        export(run, None, tmp_path / 'b.xml')
    (tmp_path / 'detr_runtime.py').write_text('mine')
    with pytest.raises(UserError, match=r'detr_runtime\.py is another one than ours'):
        export(run, None, tmp_path / 'c.onnx')
    with pytest.raises(UserError, match="no format 'tensorrt'"):
        export(run, None, tmp_path / 'c.onnx', 'tensorrt')
    with pytest.raises(UserError, match='--opset 11 has to be from 16 to 23'):
        export(run, None, tmp_path / 'c.pt', opset=11)


def test_files_of_pytorch_ask_for_no_gradients(exported):
    module = torch.jit.load(str(exported('run', '.pt').files[0]))
    assert not any(output.requires_grad for output in module(*BATCHES[0]))


def test_ap_that_cannot_be_measured_is_said(run, tmp_path, monkeypatch):
    """Here, the data of the config are not in this folder."""
    said = []
    monkeypatch.setattr(exporter, 'warn', said.append)
    monkeypatch.chdir(tmp_path)
    exported = export(run, None, tmp_path / 'a.pt', bf16=True)
    assert exported.ap is None
    assert said == ["AP is not measured: the config's test data are not here"]
