"""The main job, as a user runs it: data, training, resuming, testing, predicting, report.

mim starts once for each of its commands; elsewhere the tool that it would start is forked.
"""

import json
import pickle
import re
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import MODELS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from processes import run_tool

from mmdet_detr.checkpoints.files import load_from_local

CONFIG = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py'
OPTIONS = (
    'train_dataloader.batch_size=8',
    'val_dataloader.batch_size=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=2',
    'default_hooks.logger.interval=1',
)


@pytest.fixture(scope='session')
def folder(run_mim, tmp_path_factory):
    """A folder with data/shapes and a run of two iterations in work."""
    root = tmp_path_factory.mktemp('run')
    done = run_mim('run', 'mmdet_detr', 'make_shapes', 'data/shapes', '--train', 16, '--val', 4, cwd=root)
    assert done.returncode == 0, done.stderr
    options = ('--cfg-options', *OPTIONS, 'train_cfg.max_iters=2')
    done = run_mim('train', 'mmdet_detr', CONFIG, '--gpus', 0, '--work-dir', 'work', *options, cwd=root)
    assert done.returncode == 0, done.stderr
    (root / 'terminal.txt').write_text(done.stdout)
    assert done.stderr == ''
    return root


def train(root, work_dir, *options, config=CONFIG, flags=()):
    arguments = ('--work-dir', work_dir, *flags, '--cfg-options', *OPTIONS, *options)
    return run_tool('train', config, *arguments, cwd=root)


def scalars(root) -> list[dict]:
    paths = sorted(root.glob('work/*/vis_data/scalars.json'))
    return [json.loads(line) for line in paths[-1].read_text().splitlines()]


def test_trained_and_evaluated(folder):
    entries = scalars(folder)
    assert [entry['step'] for entry in entries if 'loss' in entry] == [1, 2]
    losses = [name for name in entries[0] if 'loss_' in name]
    assert len(losses) == 3 * 3 + 2 * 3  # of the layers, and of the parts for training only
    assert 0 <= entries[-1]['coco/bbox_mAP'] <= 1
    assert (folder / 'work' / 'iter_2.pth').is_file()


def test_the_terminal_is_short(folder):
    """What mim train prints: a summary, a line an iteration, one of the validation, and what to do next."""
    lines = (folder / 'terminal.txt').read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if 'Iter(train)' in line)
    assert first <= 15
    summary = '\n'.join(lines[:first])
    assert 'instances_train.json: 16 images, ' in summary
    assert '3 classes (circle, square, triangle)' in summary
    assert '2 iterations, validation every 2 iterations; Muon at 0.001 and 0.01' in summary
    assert f'work/{next((folder / "work").glob("*/*.log")).parent.name}/' in summary
    iterations = [line for line in lines if 'Iter(train)' in line]
    assert len(iterations) == 2
    assert all(re.search(r'\[\d/2\]  loss [\d.]+  [\d.]+ s  eta 0:00:\d\d  lr \S+$', line) for line in iterations)
    assert max(map(len, iterations)) <= 120
    assert sum('AP50' in line for line in lines) == 1
    log = next((folder / 'work').glob('*/*.log')).read_text()
    table = ' Average Precision  (AP) @[ IoU=0.50:0.95'
    assert table in log
    assert 'System environment' in log
    assert re.search(r'Last AP [\d.]+: work/iter_2\.pth', lines[-3])
    assert 'Next: mim run mmdet_detr evaluate work (' in lines[-2]
    for noise in (table, 'index', 'OneDL', 'faster_coco_eval', 'deprecated', 'System environment', 'copypaste'):
        assert noise not in '\n'.join(lines), noise


def test_resumes_tests_and_reports(folder, run_mim):
    done = train(folder, 'work', 'train_cfg.max_iters=4', flags=['--resume'])
    assert done.returncode == 0, done.stderr
    assert [entry['step'] for entry in scalars(folder) if 'loss' in entry] == [3, 4]
    validated = scalars(folder)[-1]['coco/bbox_mAP']

    checkpoint = folder / 'work' / 'iter_4.pth'
    arguments = ('--checkpoint', checkpoint, '--gpus', 0, '--work-dir', 'work', '--show-dir', 'shown')
    done = run_mim('test', 'mmdet_detr', CONFIG, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    tested = float(re.search(r'AP ([\d.]+)', done.stdout)[1])
    assert tested == pytest.approx(validated, abs=1e-3)
    assert len(list(folder.glob('work/*/shown/*'))) == 4

    done = run_tool('report', 'work', '--images', 3, cwd=folder)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith('AP '))
    assert f'AP {tested:.3f}, AP50' in line
    assert 'predictions.png are in work' in line
    for name in ('curve.png', 'predictions.png'):
        assert (folder / 'work' / name).read_bytes().startswith(b'\x89PNG')
    page = (folder / 'work' / 'report.html').read_text()
    linked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {'curve.png', 'predictions.png', 'evaluation/index.html'} <= set(linked)
    assert all((folder / 'work' / name).is_file() for name in linked)  # nothing from the network
    first = min((folder / 'work').glob('*/vis_data/config.py')).relative_to(folder)  # the other one resumes
    assert f'mim train mmdet_detr {first} --work-dir work-again' in page
    assert 'constructor=&#x27;mmdet_detr.MuonConstructor&#x27;' in page  # the config


def test_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    """No temporary files, and nothing of the environment in configs, logs and checkpoints."""
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(folder / 'inductor'))  # PyTorch makes it as it is imported
    monkeypatch.setenv('WANDB_API_KEY', 'a-secret-of-the-environment')
    options = ('train_cfg.max_iters=2', 'train_dataloader.num_workers=2', 'val_dataloader.num_workers=1')
    done = train(folder, 'clean', *options)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    written = [path for path in (folder / 'clean').rglob('*') if path.is_file()]
    assert {'.pth', '.py', '.log'} <= {path.suffix for path in written}
    assert not [path for path in written if b'a-secret' in path.read_bytes()]


def test_auto_scale_lr(folder):
    """Half the batch size, half the learning rate; mmdet's own DETR configs raise here."""
    done = train(folder, 'scaled', 'train_cfg.max_iters=2', flags=['--auto-scale-lr'])
    assert done.returncode == 0, done.stderr
    scaled, plain = (
        json.loads(sorted(folder.glob(f'{run}/*/vis_data/scalars.json'))[0].read_text().splitlines()[0])['lr']
        for run in ('scaled', 'work')
    )
    assert scaled == pytest.approx(plain / 2)


def test_wrong_number_of_classes_is_said_before_training(folder):
    done = train(folder, 'wrong', 'model.bbox_head.num_classes=2')
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        'train: NumClassCheckHook cannot be built from the config: The `num_classes` (2) in DETRHead of DETR does not'
    )
    assert 'File "' not in done.stderr


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.neck.in_channels=63', 'TransformerNeck(in_channels=63): feature map -1 of 1 has 64 channels'),
        (
            'model.bbox_head.embed_dims=32',
            'TransformerNeck(embed_dims=64) got training_sets of width 32: give the head the same embed_dims',
        ),
        (
            'train_dataloader.persistent_workers=True',
            'a data loader cannot be built from the config: persistent_workers option needs num_workers > 0',
        ),
        pytest.param(
            'optim_wrapper.type=AmpOptimWrapper',
            'AmpOptimWrapper cannot be built from the config: ``AmpOptimizerWrapper`` is only available',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='it can be built with a GPU'),
        ),
        (
            'model.bbox_head.loss_cls=1',
            'mmdet_detr.DETRHead cannot be built from the config: DETRHead.__init__() got an unexpected keyword',
        ),
        ('optim_wrapper.optimizer.type=Adma', 'Adma cannot be built from the config: '),
        ('model.backbone.depth=19', "ResNet cannot be built from the config: 'invalid depth 19 for resnet'"),
        ('model.backbone.out_indices=[7]', 'ResNet cannot be built from the config: assert max(out_indices) < '),
        ('val_evaluator.metric=bbx', 'mmdet_detr.CocoMetric cannot be built from the config: "metric should be one of'),
        (
            'val_evaluator.ann_file=none.json',
            'mmdet_detr.CocoMetric cannot be built from the config: [Errno 2] No such file',
        ),
        ('val_evaluator=None', 'a run cannot be built from the config: val_dataloader, val_cfg, and val_evaluator'),
        (
            'default_hooks.checkpoint.save_best=coco/x',
            'mmdet_detr.AtomicCheckpointHook cannot be built from the config: Cannot',
        ),
        (
            'model.bbox_head.loss.loss_cls.type=QualityFocalLoss',
            'loss_cls of BipartiteMatchLoss takes class labels, and QualityFocalLoss needs soft targets',
        ),
    ],
)
def test_parts_that_do_not_fit_are_one_line(folder, option, message):
    done = train(folder, 'unfit', 'train_cfg.max_iters=2', option)
    assert done.returncode == 2
    assert f'train: {message}' in done.stderr
    assert 'File "' not in done.stderr


def test_auxiliary_head_trains_and_both_heads_report(folder):
    """A dense head beside a DETR; the report of queries finds those of the DETR."""
    config = folder / 'auxiliary.py'
    config.write_text(
        f'_base_ = {str(CONFIG)!r}\n'
        "model = dict(_delete_=True, type='mmdet_detr.AuxiliaryHeadDetector', detector=_base_.model, aux_head=dict("
        "type='FCOSHead', num_classes=3, in_channels=64, strides=[8], regress_ranges=((-1, 1e8),), feat_channels=32))\n"
    )
    done = train(folder, 'auxiliary', 'train_cfg.max_iters=2', config=config)
    assert done.returncode == 0, done.stderr
    logged = sorted(folder.glob('auxiliary/*/vis_data/scalars.json'))[-1].read_text().splitlines()
    assert {'loss_cls', 'aux.loss_cls', 'aux.loss_centerness', 'query_spread'} <= json.loads(logged[0]).keys()
    assert 'coco/bbox_mAP' in json.loads(logged[-1])


def test_inferencer_of_mmdet(folder, run_python):
    """In a process that never mentions mmdet_detr: the config is enough."""
    image = sorted(folder.glob('data/shapes/val/*.jpg'))[0]
    code = (
        'import json\nfrom mmdet.apis import DetInferencer\n'
        f'inferencer = DetInferencer({str(CONFIG)!r}, {str(folder / "work" / "iter_2.pth")!r}, device="cpu")\n'
        f'result = inferencer({str(image)!r}, out_dir="out", pred_score_thr=0.0)\n'
        'print("RESULT", json.dumps(result["predictions"][0]))\n'
    )
    done = run_python('-c', code, cwd=folder)
    assert done.returncode == 0, done.stderr
    prediction = json.loads(done.stdout.split('RESULT ')[1])
    assert len(prediction['labels']) == len(prediction['scores']) == 10
    boxes = np.array(prediction['bboxes'])
    assert boxes.shape == (10, 4)
    assert boxes.min() >= 0
    assert boxes.max() <= 64
    assert (folder / 'out' / 'vis' / image.name).is_file()


def test_init_and_inference_detector_of_mmdet(folder):
    model = init_detector(str(CONFIG), str(folder / 'work' / 'iter_2.pth'), device='cpu')
    assert model.dataset_meta['classes'] == ('circle', 'square', 'triangle')
    images = [str(path) for path in sorted(folder.glob('data/shapes/val/*.jpg'))]
    results = inference_detector(model, images)
    assert len(results) == len(images)
    for result in results:
        assert result.ori_shape == (64, 64)
        assert torch.all(result.pred_instances.scores.diff() <= 0)


@pytest.fixture(scope='session')
def hugging_face(folder):
    """The run's weights as a Hugging Face folder."""
    done = run_tool('convert_checkpoint', 'work/iter_2.pth', 'hugging_face', '--to', 'hf', cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / 'hugging_face'


def test_hugging_face_folder_detects_alike(folder, hugging_face, monkeypatch):
    """The test script, the inferencer and init_detector find what they find with the run's own checkpoint."""
    monkeypatch.setattr(DetLocalVisualizer, '_instance_dict', OrderedDict())  # the inferencer leaves one to later tests
    images = [str(path) for path in sorted(folder.glob('data/shapes/val/*.jpg'))]
    own = init_detector(str(CONFIG), str(folder / 'work' / 'iter_2.pth'), device='cpu')
    expected = [result.pred_instances for result in inference_detector(own, images)]

    model = init_detector(str(CONFIG), str(hugging_face), device='cpu')
    assert model.dataset_meta['classes'] == ('circle', 'square', 'triangle')
    result = inference_detector(model, images[0]).pred_instances
    torch.testing.assert_close(result.bboxes, expected[0].bboxes, rtol=0, atol=1e-3)

    inferencer = DetInferencer(str(CONFIG), str(hugging_face), device='cpu', show_progress=False)
    prediction = inferencer(images[0])['predictions'][0]
    assert prediction['labels'] == expected[0].labels.tolist()
    assert prediction['scores'] == pytest.approx(expected[0].scores.tolist(), abs=1e-4)

    arguments = (CONFIG, hugging_face, '--work-dir', 'tested', '--out', 'found.pkl')
    done = run_tool('test', *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f'Loaded {hugging_face}, Hugging Face' in done.stdout
    tested = pickle.loads((folder / 'found.pkl').read_bytes())
    assert [result['img_path'] for result in tested] == [str(Path(path).relative_to(folder)) for path in images]
    for result, own_result in zip(tested, expected, strict=True):
        torch.testing.assert_close(result['pred_instances']['bboxes'], own_result.bboxes, rtol=0, atol=1e-3)
        assert torch.equal(result['pred_instances']['labels'], own_result.labels)


def test_trains_from_another_checkpoint(folder, hugging_face, tmp_path):
    """Other classes and queries; a learning rate of zero shows what was loaded."""
    annotations = (folder / 'data/shapes/annotations/instances_train.json').read_text()
    (tmp_path / 'own.json').write_text(annotations.replace('"triangle"', '"disc"'))
    (tmp_path / 'own.py').write_text(
        f'_base_ = {str(CONFIG)!r}\n'
        f"mine = dict(ann_file='{tmp_path}/own.json', metainfo=dict(classes=('square', 'disc')))\n"
        'train_dataloader = dict(batch_size=8, dataset=mine)\n'
        'val_cfg, val_dataloader, val_evaluator = None, None, None\n'
        'train_cfg = dict(max_iters=1)\n'
        'model = dict(bbox_head=dict(num_classes=2), neck=dict(num_queries=12))\n'
        'optim_wrapper = dict(optimizer=dict(lr=0.0), muon=dict(lr=0.0))\n'
    )
    arguments = (tmp_path / 'own.py', '--work-dir', tmp_path, '--cfg-options', f'load_from={hugging_face}')
    done = run_tool('train', *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert 'classes: 1 of 2 classes by name, and the row of no object' in done.stdout
    assert done.stdout.count(f'Loaded {hugging_face}') == 1
    assert 'A step sees 8 images' in done.stdout  # and the learning rate is meant for 16
    before = load_from_local(str(folder / 'work' / 'iter_2.pth'))['state_dict']
    after = load_from_local(str(tmp_path / 'iter_1.pth'))['state_dict']
    assert torch.equal(after['neck.input_proj.weight'], before['neck.input_proj.weight'])
    assert torch.equal(after['neck.query_embed.weight'][:10], before['neck.query_embed.weight'])
    rows = 'bbox_head.class_embed.weight'
    assert torch.equal(after[rows][[0, 2]], before[rows][[1, 3]])  # square and no object


def test_initialised_from_another_checkpoint(hugging_face):
    config = Config.fromfile(CONFIG).model
    config.init_cfg = {'type': 'Pretrained', 'checkpoint': str(hugging_face)}
    model = MODELS.build(config)
    model.init_weights()
    expected = init_detector(str(CONFIG), str(hugging_face), device='cpu').state_dict()
    network = {name: value for name, value in model.state_dict().items() if 'training_queries' not in name}
    assert all(torch.equal(value, expected[name]) for name, value in network.items())


def test_bad_checkpoints_are_one_line(folder, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'empty.pth').touch()
    for tool, message, *arguments in (
        ('test', f'{tmp_path}/folder is a folder without model.safetensors', tmp_path / 'folder'),
        ('train', f'{tmp_path}/empty.pth is empty', '--cfg-options', f'load_from={tmp_path}/empty.pth'),
    ):
        work_dir = tmp_path / tool
        done = run_tool(tool, CONFIG, *arguments, '--work-dir', work_dir, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f'{tool}: {message}')
        assert 'Traceback' not in done.stderr
        assert not list(work_dir.rglob('*.pth'))


def test_bad_data_is_one_line_from_a_worker_too(folder, tmp_path):
    for path in (folder / 'data' / 'shapes').glob('*/*.jpg'):
        target = tmp_path / 'data' / 'shapes' / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b'no image' if path.parent.name == 'train' else path.read_bytes())
    shutil.copytree(folder / 'data' / 'shapes' / 'annotations', tmp_path / 'data' / 'shapes' / 'annotations')
    options = ('train_dataloader.num_workers=1', 'train_dataloader.persistent_workers=True')
    done = run_tool('train', CONFIG, '--cfg-options', *options, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.match(r'train: \d of \d images cannot be used, more than max_broken=0.1', done.stderr.splitlines()[-1])
    assert 'Traceback' not in done.stderr


def test_a_training_without_any_object_is_one_line(folder, tmp_path):
    document = json.loads((folder / 'data/shapes/annotations/instances_train.json').read_text())
    document['annotations'] = [{**entry, 'iscrowd': 1} for entry in document['annotations']]
    (tmp_path / 'crowds.json').write_text(json.dumps(document))
    done = train(folder, 'nothing', f'train_dataloader.dataset.ann_file={tmp_path}/crowds.json')
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        'train: train_dataloader: not one of its 16 images has an object to learn of the classes circle, square, '
    )
    assert 'File "' not in done.stderr
    assert 'Iter(train)' not in done.stdout


def test_full_disk_is_one_line(run_python, tmp_path):
    (tmp_path / 'run.py').write_text(
        'import runpy\n'
        'from mmdet_detr.cli.mmdet_scripts import run_mmdet_tool\n'
        'def run_path(*args, **kwargs):\n'
        '    raise OSError(28, "No space left on device")\n'
        'runpy.run_path = run_path\n'
        'run_mmdet_tool("train")\n'
    )
    done = run_python(tmp_path / 'run.py', CONFIG)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == 'train: a file of the run cannot be written: No space left on device'
    assert 'Traceback' not in done.stderr


def test_bad_input_is_one_line(folder):
    (folder / 'broken.json').write_text('{')
    (folder / 'broken.py').write_text('a = (')
    for tool, arguments, message in (
        ('train', ['nothing.py'], 'train: no such file: nothing.py'),
        ('train', ['broken.py'], 'train: broken.py cannot be read: SyntaxError'),
        ('test', ['broken.json', CONFIG], 'test: broken.json cannot be read: JSONDecodeError'),
        ('test', [CONFIG, 'nothing.pth'], 'test: no such file: nothing.pth'),
        ('report', ['absent'], 'report: no such config or folder of a run: absent'),
    ):
        done = run_tool(tool, *arguments, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith(message)
        assert 'Traceback' not in done.stderr
    refused = run_tool('test', CONFIG, folder / 'work' / 'iter_2.pth', '--tta', cwd=folder)
    assert refused.returncode == 2
    assert '--tta is off' in refused.stderr


@pytest.mark.parametrize('tool', ['train', 'test', 'make_shapes', 'report', 'convert_checkpoint'])
def test_help(tool):
    done = run_tool(tool, '--help')
    assert done.returncode == 0
    assert 'usage:' in done.stdout
    assert '--gpus' not in done.stdout  # mim would then pass flags that mmdet's script lacks


def test_benchmark_with_ap(folder):
    """The AP of a checkpoint is that of the test script; a detector without a checkpoint has none."""
    done = run_tool(
        *('benchmark', CONFIG, CONFIG, '--checkpoint', 'work/iter_2.pth', '-'),
        *('--mode', 'infer', '--size', '64x64', '--rounds', 2, '--no-memory', '--out', 'speed'),
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / 'speed' / 'benchmark.json').read_text())
    assert len(results['rows']) == 2
    assert list(results['ap']) == ['detr_tiny_shapes (1)']
    done = run_tool('test', CONFIG, 'work/iter_2.pth', cwd=folder)
    assert done.returncode == 0, done.stderr
    figure = re.search(r'AP (\S+)', done.stdout)[1]
    assert results['ap']['detr_tiny_shapes (1)']['AP'] == float(figure)
    assert (folder / 'speed' / 'speed.png').exists()
