import dataclasses
import json
import os
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign import (
    IMPLEMENTATIONS,
    PANOPTIC,
    R50,
    Foreign,
    hf_panoptic,
    mask_head,
    official,
    official_panoptic,
    ours,
    ours_panoptic,
    pixel_mask,
)
from helpers import ROOT, padded_batch, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint

from mmdet_detr.checkpoints.class_rows import COCO_IDS, COCO_NAMES, NAMES_BY_PANOPTIC_ID
from mmdet_detr.checkpoints.convert import TARGETS, convert_checkpoint
from mmdet_detr.checkpoints.files import load_from_local
from mmdet_detr.checkpoints.hugging_face import Settings, settings_from_config

SOURCES = {name: build for name, build in IMPLEMENTATIONS.items() if 'panoptic' not in name}
CONFIG = (
    "model = dict(type='mmdet_detr.DETR', neck=dict(type='mmdet_detr.TransformerNeck', num_heads=4),\n"
    "    backbone=dict(type='ResNet'), data_preprocessor=dict(bgr_to_rgb=True, mean=[255, 0, 51], std=[51, 51, 51]))\n"
    "test_pipeline = [dict(type='mmdet_detr.ShortestSideResize', sizes=[64], longest=96)]\n"
)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return path


def save(foreign: Foreign, path, **more):
    torch.save({'state_dict': foreign.state_dict, **more}, path)
    return path


@pytest.mark.parametrize('to', TARGETS)
@pytest.mark.parametrize('layout', SOURCES)
def test_there_and_back_is_bit_identical(layout, to, tmp_path, config):
    """From every layout to every target and on to ours: the same as from the layout to ours."""
    source = save(SOURCES[layout](), tmp_path / 'source.pth')
    there = tmp_path / ('folder' if to == 'hf' else 'there.pth')
    convert_checkpoint(source, there, to, config=config)
    convert_checkpoint(there, tmp_path / 'back.pth', 'mmdet_detr')
    convert_checkpoint(source, tmp_path / 'direct.pth', 'mmdet_detr')
    back, direct = (load_from_local(str(tmp_path / name))['state_dict'] for name in ('back.pth', 'direct.pth'))
    assert back.keys() == direct.keys()
    for name, value in direct.items():
        assert torch.equal(back[name], value), name


@pytest.mark.parametrize('layout', ['detr', 'mmdet3', 'mmdet_detr'])
def test_file_is_what_the_other_implementation_loads(layout, tmp_path):
    """Names and values, all of them, of a model of that implementation."""
    build = {'detr': 'facebookresearch/detr', 'mmdet3': 'mmdet 3.x', 'mmdet_detr': 'mmdet_detr'}[layout]
    ours_file = tmp_path / 'ours.pth'
    expected = IMPLEMENTATIONS[build]()
    convert_checkpoint(save(expected, tmp_path / 'source.pth'), ours_file, 'mmdet_detr')
    convert_checkpoint(ours_file, tmp_path / 'written.pth', layout)
    written = torch.load(tmp_path / 'written.pth', weights_only=True)['model' if layout == 'detr' else 'state_dict']
    assert written.keys() == expected.state_dict.keys()
    for name, value in expected.state_dict.items():
        assert torch.equal(written[name], value), name


@torch.no_grad()
def test_hugging_face_opens_it_and_detects_the_same(tmp_path, config):
    transformers = pytest.importorskip('transformers', minversion='5', reason='needs transformers 5')
    own = ours()
    classes = ('ant', 'bee', 'cat', 'dog', 'elk')
    source = save(own, tmp_path / 'ours.pth', meta={'cfg': CONFIG, 'dataset_meta': {'classes': classes}})
    convert_checkpoint(source, tmp_path / 'folder', 'hf')
    theirs, info = transformers.DetrForObjectDetection.from_pretrained(tmp_path / 'folder', output_loading_info=True)
    assert not any(info.values())
    assert tuple(theirs.config.id2label[i] for i in range(5)) == classes

    processor = transformers.DetrImageProcessor.from_pretrained(tmp_path / 'folder')
    image = np.random.default_rng(0).integers(0, 256, (48, 100, 3), dtype=np.uint8)
    inputs = processor(images=image, return_tensors='pt')
    assert inputs['pixel_values'].shape == (1, 3, 46, 96)  # 96 * 48 / 100 = 46
    assert inputs['pixel_values'][0, 0].max() <= 0  # the mean of red is white
    assert inputs['pixel_values'][0, 1].min() >= 0

    images, samples = padded_batch()
    samples, images = samples[:1], images[:1]
    out = theirs.eval()(pixel_values=images)
    logits, boxes = own.forward(images, samples)
    torch.testing.assert_close(out.logits, logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(out.pred_boxes, boxes, rtol=0, atol=1e-4)
    scores = out.logits.softmax(-1)[0, :, :-1].amax(-1).sort().values
    threshold = scores[5:7].mean().item()  # between two, so that rounding decides nothing
    detected = processor.post_process_object_detection(out, threshold, target_sizes=[samples[0].ori_shape])[0]
    own.model.bbox_head.test_cfg = {'score_thr': threshold, 'max_per_img': 12}
    predicted = own.model(images, samples, mode='predict')[0].pred_instances
    order = detected['scores'].argsort(descending=True)
    assert 0 < len(order) < 12
    torch.testing.assert_close(predicted.scores, detected['scores'][order], rtol=0, atol=1e-4)
    assert torch.equal(predicted.labels, detected['labels'][order])
    height, width = samples[0].ori_shape
    clipped = detected['boxes'][order].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    torch.testing.assert_close(predicted.bboxes, clipped, rtol=0, atol=1e-2)


PANOPTIC_SOURCES = {'detr': official_panoptic, 'hf': hf_panoptic, 'mmdet_detr': ours_panoptic}
PANOPTIC_CONFIG = CONFIG.replace('num_heads=4', 'num_heads=8')


@pytest.mark.parametrize('to', PANOPTIC_SOURCES)
@pytest.mark.parametrize('layout', PANOPTIC_SOURCES)
def test_masks_there_and_back_are_bit_identical(layout, to, tmp_path):
    (tmp_path / 'config.py').write_text(PANOPTIC_CONFIG)
    source = save(PANOPTIC_SOURCES[layout](PANOPTIC), tmp_path / 'source.pth')
    there = tmp_path / ('folder' if to == 'hf' else 'there.pth')
    convert_checkpoint(source, there, to, config=tmp_path / 'config.py')
    convert_checkpoint(there, tmp_path / 'back.pth', 'mmdet_detr')
    convert_checkpoint(source, tmp_path / 'direct.pth', 'mmdet_detr')
    back, direct = (load_from_local(str(tmp_path / name))['state_dict'] for name in ('back.pth', 'direct.pth'))
    assert back.keys() == direct.keys()
    assert len([name for name in direct if name.startswith('mask_head.')]) == 32
    for name, value in direct.items():
        assert torch.equal(back[name], value), name


@pytest.mark.parametrize('to', ['detr', 'mmdet_detr'])
def test_file_with_masks_is_what_the_other_implementation_loads(to, tmp_path):
    """In the official layout the detector is under ``detr.``, beside the mask head and its attention."""
    expected = PANOPTIC_SOURCES[to]()
    convert_checkpoint(save(expected, tmp_path / 'source.pth'), tmp_path / 'ours.pth', 'mmdet_detr')
    convert_checkpoint(tmp_path / 'ours.pth', tmp_path / 'written.pth', to)
    written = torch.load(tmp_path / 'written.pth', weights_only=True)['model' if to == 'detr' else 'state_dict']
    assert written.keys() == expected.state_dict.keys()
    for name, value in expected.state_dict.items():
        assert torch.equal(written[name], value), name


@torch.no_grad()
def test_transformers_opens_masks_and_computes_the_same(tmp_path):
    """Saved by transformers, read, written and opened again."""
    theirs = hf_panoptic()
    from transformers import DetrForSegmentation, DetrImageProcessor

    theirs.model.save_pretrained(tmp_path / 'saved')
    convert_checkpoint(tmp_path / 'saved', tmp_path / 'ours.pth', 'mmdet_detr')
    (tmp_path / 'config.py').write_text(PANOPTIC_CONFIG)
    convert_checkpoint(tmp_path / 'ours.pth', tmp_path / 'folder', 'hf', config=tmp_path / 'config.py')
    opened, info = DetrForSegmentation.from_pretrained(tmp_path / 'folder', output_loading_info=True)
    assert not any(info.values())
    assert opened.config.architectures == ['DetrForSegmentation']
    weights = opened.state_dict()
    assert weights.keys() == theirs.state_dict.keys()
    assert all(torch.equal(value, weights[name]) for name, value in theirs.state_dict.items())

    images, samples = padded_batch()
    inputs = {'pixel_values': images, 'pixel_mask': pixel_mask(images, samples).long()}
    expected, given = theirs.model(**inputs), opened.eval()(**inputs)
    assert expected.pred_masks.std() > 0.1
    for name in ('logits', 'pred_boxes', 'pred_masks'):
        assert torch.equal(given[name], expected[name]), name
    assert DetrImageProcessor.from_pretrained(tmp_path / 'folder').format == 'coco_panoptic'


def test_masks_of_the_published_size(tmp_path):
    """An R50 with the panoptic outputs, there with the published number of entries and settings."""
    shapes = json.loads((ROOT / 'tests/models/detr_r50_state_dict.json').read_text())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items() if 'num_batches' not in name}
    weights['bbox_head.class_embed.weight'], weights['bbox_head.class_embed.bias'] = (
        torch.ones(251, 256),
        torch.ones(251),
    )
    masks = mask_head(R50).state_dict()
    assert sum(value.numel() for value in masks.values()) == 1_333_657
    torch.save({**weights, **{f'mask_head.{name}': value for name, value in masks.items()}}, tmp_path / 'r50.pth')
    line = convert_checkpoint(tmp_path / 'r50.pth', tmp_path / 'detr.pth', 'detr')
    assert line == f'{tmp_path}/detr.pth: facebookresearch/detr, 490 entries (from mmdet_detr, 0 dropped)'
    convert_checkpoint(tmp_path / 'detr.pth', tmp_path / 'folder', 'hf')
    config = json.loads((tmp_path / 'folder' / 'config.json').read_text())
    assert config['architectures'] == ['DetrForSegmentation']
    assert config['backbone_config']['out_features'] == ['stage1', 'stage2', 'stage3', 'stage4']
    assert config['encoder_attention_heads'] == 8
    assert [config['id2label'][str(i)] for i in range(250)] == list(NAMES_BY_PANOPTIC_ID)
    processor = json.loads((tmp_path / 'folder' / 'preprocessor_config.json').read_text())
    assert processor['format'] == 'coco_panoptic'

    line = convert_checkpoint(tmp_path / 'folder', tmp_path / 'mmdet.pth', 'mmdet3', coco80=True)
    assert line.endswith("(from Hugging Face, transformers' ResNet, 32 dropped, the mask head too: mmdet 3.x has none)")
    written = torch.load(tmp_path / 'mmdet.pth', weights_only=True)
    assert not [name for name in written['state_dict'] if 'mask' in name]
    assert written['meta']['dataset_meta']['classes'] == COCO_NAMES


def test_masks_keep_the_names_of_own_classes(tmp_path):
    classes = ('ant', 'bee', 'cat', 'soil', 'sky')
    source = save(ours_panoptic(replace(PANOPTIC, num_classes=5)), tmp_path / 'ours.pth',
                  meta={'cfg': PANOPTIC_CONFIG, 'dataset_meta': {'classes': classes}})  # fmt: skip
    convert_checkpoint(source, tmp_path / 'folder', 'hf')
    labels = json.loads((tmp_path / 'folder' / 'config.json').read_text())['id2label']
    assert tuple(labels[str(i)] for i in range(5)) == classes


def test_masks_with_a_dilated_backbone_get_the_names_of_timm(tmp_path):
    config = tmp_path / 'dc5.py'
    config.write_text(PANOPTIC_CONFIG.replace("'ResNet'", "'mmdet_detr.ResNetDC5'"))
    source = save(ours_panoptic(PANOPTIC), tmp_path / 'ours.pth')
    convert_checkpoint(source, tmp_path / 'folder', 'hf', config=config)
    written = json.loads((tmp_path / 'folder' / 'config.json').read_text())
    assert (written['architectures'], written['dilation']) == (['DetrForSegmentation'], True)
    names = set(load_from_local(str(tmp_path / 'folder'))['state_dict'])
    assert {'detr.model.backbone.conv_encoder.model.layer4.1.conv2.weight', 'mask_head.lay1.weight'} <= names


def test_hugging_face_names_of_the_published_size(tmp_path):
    """An R50 with COCO's outputs: config.json has the published model's sizes and labels."""
    shapes = json.loads((ROOT / 'tests/models/detr_r50_state_dict.json').read_text())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items() if 'num_batches' not in name}
    weights['bbox_head.class_embed.weight'] = torch.arange(92.0)[:, None].expand(92, 256)
    weights['bbox_head.class_embed.bias'] = torch.arange(92.0)
    torch.save(weights, tmp_path / 'r50.pth')
    convert_checkpoint(tmp_path / 'r50.pth', tmp_path / 'folder', 'hf')
    config = json.loads((tmp_path / 'folder' / 'config.json').read_text())
    assert config['backbone_config']['depths'] == [3, 4, 6, 3]
    assert config['backbone_config']['hidden_sizes'] == [256, 512, 1024, 2048]
    assert (config['encoder_attention_heads'], config['num_queries'], config['d_model']) == (8, 100, 256)
    assert [config['id2label'][i] for i in ('0', '1', '17', '90')] == ['N/A', 'person', 'cat', 'toothbrush']
    assert len(config['id2label']) == 91
    processor = json.loads((tmp_path / 'folder' / 'preprocessor_config.json').read_text())
    assert processor['size'] == {'shortest_edge': 800, 'longest_edge': 1333}

    convert_checkpoint(tmp_path / 'folder', tmp_path / 'mmdet.pth', 'mmdet3', coco80=True)
    written = torch.load(tmp_path / 'mmdet.pth', weights_only=True)
    assert written['state_dict']['bbox_head.fc_cls.bias'].tolist() == [*COCO_IDS, 91]
    assert written['meta']['dataset_meta']['classes'] == COCO_NAMES

    convert_checkpoint(tmp_path / 'r50.pth', tmp_path / 'detr-r50-dc5.pth', 'detr')  # without the official args
    convert_checkpoint(tmp_path / 'detr-r50-dc5.pth', tmp_path / 'dilated', 'hf')
    assert json.loads((tmp_path / 'dilated' / 'config.json').read_text())['dilation']
    assert not config['dilation']


def test_dilated_backbone_gets_the_names_of_timm(tmp_path):
    """transformers' own ResNet cannot dilate; the published DC5 models use timm's."""
    config = tmp_path / 'dc5.py'
    config.write_text(CONFIG.replace("'ResNet'", "'mmdet_detr.ResNetDC5'"))
    convert_checkpoint(save(ours(), tmp_path / 'ours.pth'), tmp_path / 'folder', 'hf', config=config)
    written = json.loads((tmp_path / 'folder' / 'config.json').read_text())
    assert (written['dilation'], written['use_timm_backbone'], written['backbone']) == (True, True, 'resnet18')
    names = load_from_local(str(tmp_path / 'folder'))['state_dict']
    assert 'model.backbone.conv_encoder.model.layer4.1.conv2.weight' in names


def test_settings_of_the_configs():
    from mmengine.config import Config

    def settings(name):
        return settings_from_config(Config.fromfile(ROOT / 'configs/detr' / name).to_dict())

    published = settings('detr_r50_8x2_150e_coco.py')
    assert (published.num_heads, published.dilated, published.shortest, published.longest) == (8, False, 800, 1333)
    assert published.mean == pytest.approx(Settings().mean)
    assert published.std == pytest.approx(Settings().std)
    assert settings('detr_r101-dc5_8x1_500e_coco.py').dilated
    shapes = settings('detr_tiny_shapes.py')
    assert (shapes.num_heads, shapes.shortest, shapes.dropout) == (4, None, 0.0)


def test_refuses_to_overwrite(tmp_path):
    source = save(official(), tmp_path / 'source.pth')
    (tmp_path / 'there.pth').write_text('precious')
    with pytest.raises(FileExistsError, match='--force overwrites it'):
        convert_checkpoint(source, tmp_path / 'there.pth', 'detr')
    assert (tmp_path / 'there.pth').read_text() == 'precious'
    convert_checkpoint(source, tmp_path / 'there.pth', 'detr', force=True)
    assert torch.load(tmp_path / 'there.pth', weights_only=True)['model'].keys() == official().state_dict.keys()


def test_forced_folder_keeps_other_files(tmp_path, config):
    source = save(official(), tmp_path / 'source.pth')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'README.md').write_text('precious')
    convert_checkpoint(source, tmp_path / 'folder', 'hf', config=config, force=True)
    assert {path.name for path in (tmp_path / 'folder').iterdir()} == {
        'README.md', 'config.json', 'preprocessor_config.json', 'model.safetensors',
    }  # fmt: skip
    assert len({path.stat().st_mode for path in (tmp_path / 'folder').iterdir()}) == 1  # as readable as any file


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    source = save(official(), tmp_path / 'source.pth')
    (tmp_path / 'there.pth').write_text('precious')

    def fail(content, path):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='No space left'):
        convert_checkpoint(source, tmp_path / 'there.pth', 'detr', force=True)
    assert (tmp_path / 'there.pth').read_text() == 'precious'
    assert sorted(os.listdir(tmp_path)) == ['source.pth', 'there.pth']


def bad_input(tmp_path):
    own = ours()
    save(own, tmp_path / 'ours.pth')
    torch.save({n: v for n, v in own.state_dict.items() if 'class_embed' not in n}, tmp_path / 'start.pth')
    save(own, tmp_path / 'sigmoid.pth', meta={'dataset_meta': {'classes': list('abcdef')}, 'cfg': CONFIG})
    own.state_dict['backbone.layer1.0.conv7.weight'] = torch.zeros(1)
    save(own, tmp_path / 'odd.pth', meta={'cfg': CONFIG})
    save(ours_panoptic(), tmp_path / 'masks.pth')
    fewer = ours_panoptic()
    del fewer.state_dict['mask_head.adapter3.weight']
    save(fewer, tmp_path / 'levels.pth')
    (tmp_path / 'groups.py').write_text(CONFIG.replace('neck=', 'mask_head=dict(groups=4), neck='))
    (tmp_path / 'heads.py').write_text(PANOPTIC_CONFIG)
    (tmp_path / 'tiny.py').write_text(CONFIG)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'gelu').mkdir()
    torch.save(own.state_dict, tmp_path / 'gelu' / 'pytorch_model.bin')
    (tmp_path / 'gelu' / 'config.json').write_text('{"activation_function": "gelu"}')
    (tmp_path / 'cv.py').write_text(CONFIG.replace('mmdet_detr.ShortestSideResize', 'Resize'))
    (tmp_path / 'bgr.py').write_text(CONFIG.replace('bgr_to_rgb=True', 'bgr_to_rgb=False'))
    (tmp_path / 'caffe.py').write_text(CONFIG.replace("'ResNet'", "'ResNet', style='caffe'"))
    (tmp_path / 'dilated.py').write_text(CONFIG.replace("'ResNet'", "'ResNet', dilations=(1, 1, 1, 2)"))
    (tmp_path / 'syntax.py').write_text('model = (')
    (tmp_path / 'other.py').write_text("model = dict(type='DINO')")
    torch.save({'conv1.weight': torch.zeros(1), 'bn1.weight': torch.zeros(1), 'layer1.0.conv1.weight': torch.zeros(1)},
               tmp_path / 'resnet.pth')  # fmt: skip
    return [
        (('none.pth', 'out.pth', '--to', 'detr'), 'no such file: none.pth'),
        (('resnet.pth', 'out.pth', '--to', 'detr'), 'resnet.pth is no checkpoint of a DETR'),
        (('start.pth', 'out.pth', '--to', 'detr'), 'start.pth has no bbox_head.class_embed.*, which every DETR needs'),
        (('ours.pth', 'ours.pth', '--to', 'detr'), 'ours.pth exists: --force overwrites it'),
        (('ours.pth', 'folder', '--to', 'detr', '--force'), 'folder is a folder: name the file to write'),
        (('ours.pth', 'out.safetensors', '--to', 'detr'), 'out.safetensors: files are written by torch.save'),
        (('ours.pth', 'out', '--to', 'hf'), 'ours.pth does not tell the number of attention heads: name its config'),
        (('ours.pth', 'out', '--to', 'hf', '--config', 'cv.py'), 'the test pipeline resizes otherwise'),
        (('ours.pth', 'out', '--to', 'hf', '--config', 'bgr.py'), 'the model reads BGR images'),
        (('ours.pth', 'out', '--to', 'hf', '--config', 'other.py'), 'other.py is no config of a mmdet_detr.DETR'),
        (('sigmoid.pth', 'out', '--to', 'hf'), 'the classifier is sigmoid'),
        (('odd.pth', 'out', '--to', 'hf'), 'backbone.layer1.0.conv7.weight has no place in the layout of Hugging Face'),
        (('ours.pth', 'out.pth', '--to', 'mmdet3', '--coco80'), 'ours.pth has 6 outputs, not one for each'),
        (('ours.pth', 'ours.pth', '--to', 'hf', '--force'), 'ours.pth is a file: name the folder to write'),
        (('gelu', 'out.pth', '--to', 'detr'), 'gelu is no checkpoint of this DETR: its activation_function is gelu'),
        (('ours.pth', 'out', '--to', 'hf', '--config', 'none.py'), 'no such file: none.py'),
        (('ours.pth', 'out', '--to', 'hf', '--config', 'syntax.py'), 'syntax.py cannot be read: SyntaxError: '),
        (('ours.pth', 'out', '--to', 'hf', '--config', 'caffe.py'), 'the backbone strides in the first convolution'),
        (('ours.pth', 'out', '--to', 'hf', '--config', 'dilated.py'), 'the backbone is dilated otherwise'),
        (('masks.pth', 'out', '--to', 'hf', '--config', 'groups.py'), 'the mask head has GroupNorm of other'),
        (('masks.pth', 'out', '--to', 'hf', '--config', 'heads.py'),
         'the mask head has 36 inputs, that of transformers would have 40'),
        (('levels.pth', 'out', '--to', 'hf', '--config', 'tiny.py'), 'the mask head reads maps of [32, 16] channels'),
    ]  # fmt: skip


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cases = bad_input(tmp_path)
    before = sorted(os.listdir(tmp_path))
    for arguments, message in cases:
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint', *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(ROOT / 'tools' / 'convert_checkpoint.py'), run_name='__main__')
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'convert_checkpoint: {message}')
        assert ('--to mmdet_detr writes' in line) == any(
            words in line
            for words in (
                'the model reads BGR',
                'the backbone ',
                'the mask head ',
                'the test pip',
                'sigmoid',
                'no place',
            )
        )
        assert exit_.value.code == 2
        assert sorted(os.listdir(tmp_path)) == before


def test_through_mim(tmp_path, run_mim):
    source = save(official(), tmp_path / 'source.pth')
    done = run_mim(
        'run', 'mmdet_detr', 'convert_checkpoint', source, 'out/ours.pth', '--to', 'mmdet_detr', cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert 'out/ours.pth: mmdet_detr, 191 entries (from facebookresearch/detr, 0 dropped)' in done.stdout
    model = MODELS.build(tiny_detr_config())
    load_checkpoint(model, str(tmp_path / 'out' / 'ours.pth'), strict=True)
    assert torch.equal(model.neck.input_proj.bias, official_bias(source))


def official_bias(source):
    return torch.load(source, weights_only=True)['state_dict']['input_proj.bias']


@pytest.mark.parametrize('to', TARGETS)
def test_parts_for_training_only_are_left_out(to, tmp_path, config):
    foreign = ours()
    parts = {'bbox_head.training_queries.0.weight': torch.zeros(2, 3, 32)}
    with_parts = save(dataclasses.replace(foreign, state_dict={**foreign.state_dict, **parts}), tmp_path / 'parts.pth')
    without = save(foreign, tmp_path / 'plain.pth')
    written = []
    for source in (with_parts, without):
        convert_checkpoint(source, tmp_path / source.stem / 'written', to, config=config)
        written.append(load_from_local(str(tmp_path / source.stem / 'written'))['state_dict'])
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(value, written[1][name]) for name, value in written[0].items())
