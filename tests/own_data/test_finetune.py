"""The whole command, on a tiny network."""

import json
import os
import re
import signal
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch
from helpers import ROOT
from own_pictures import write_coco, write_images, write_yolo
from processes import Forked, run_tool, wait_for

from mmdet_detr import own_data
from mmdet_detr.errors import ConfigError, UserError
from mmdet_detr.own_data import OwnDataError, finetune, prepare, read_folder, training
from mmdet_detr.own_data.training import TrainingError

TINY = 'detr_tiny_shapes'


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / 'my pictures' / 'images')
    write_yolo(tmp_path / 'my pictures' / 'labels')
    (tmp_path / 'my pictures' / 'classes.txt').write_text('cat\ndog\n')
    return tmp_path


def files_of(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def test_from_the_folder_to_the_report(folder, monkeypatch):
    """The processes of training and test are forked here, which saves the start of two interpreters."""
    forked = {'Popen': lambda command, env: Forked(*command[1:], cwd=folder, **env)}
    monkeypatch.setattr(training, 'subprocess', SimpleNamespace(**forked))
    monkeypatch.chdir(folder)
    before = files_of(folder / 'my pictures')
    lines: list[str] = []
    run = finetune('my pictures', base=TINY, epochs=1, batch=2, device='cpu', say=lines.append)
    assert run == folder / 'work_dirs' / 'finetune_my_pictures'
    assert any('YOLO; train 4 images with ' in line and line.endswith('classes (2): cat, dog') for line in lines)
    assert f'best checkpoint: {run}/best_coco_bbox_mAP_epoch_1.pth' in lines
    assert any(line.startswith('AP ') and line.endswith(f'are in {run}') for line in lines)
    assert files_of(folder / 'my pictures') == before
    written = {path.name for path in run.iterdir()}
    assert {'annotations', 'config.py', 'curve.png', 'data_check', 'predictions.png', 'split.json'} < written
    record = json.loads((run / 'split.json').read_text())
    assert sorted(record['train'] + record['val']) == [f'{name}.jpg' for name in 'abcde']
    assert record['seed'] == 0
    assert record['classes'] == ['cat', 'dog']
    for split in ('train', 'val'):
        images = json.loads((run / 'annotations' / f'{split}.json').read_text())['images']
        assert [image['file_name'] for image in images] == record[split]
    checkpoint = torch.load(run / 'best_coco_bbox_mAP_epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 2
    assert checkpoint['meta']['dataset_meta']['classes'] == ('cat', 'dog')
    done = run_tool('finetune', 'my pictures', '--base', TINY, cwd=folder)
    message = f'finetune: {run} has a run already: name another folder by --out, or go on with that one by --resume\n'
    assert (done.returncode, done.stdout.splitlines()[-1:], done.stderr[-len(message) :]) == (2, [], message)


def test_the_written_config_trains_by_itself(folder, tmp_path):
    config = prepare(folder / 'my pictures', base=TINY, epochs=2, batch=4, out=tmp_path / 'run')
    done = run_tool('train', config, '--cfg-options', 'train_cfg.max_epochs=1', cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()


def said(folder, **options) -> list[str]:
    lines: list[str] = []
    prepare(folder, base=options.pop('base', TINY), say=lines.append, **options)
    return lines


def test_findings_are_said_and_not_fatal(tmp_path):
    write_images(tmp_path / 'mine')
    write_coco(tmp_path / 'mine' / 'train.json', 'abcd')
    write_coco(tmp_path / 'mine' / 'val.json', 'de')
    lines = said(tmp_path / 'mine', out=tmp_path / 'run')
    assert any('images that are also trained on, which make the AP too high: 1' in line for line in lines)
    assert any('train: 1 x images without boxes' in line for line in lines)
    assert (tmp_path / 'run' / 'data_check' / 'data_check.png').is_file()


def test_the_seed_makes_the_split(folder):
    pictures = folder / 'my pictures'
    splits = [read_folder(pictures, seed).documents['val']['images'] for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert any(split != splits[0] for split in splits[2:])


def test_folders_that_are_not_written_to(folder, tmp_path):
    pictures = folder / 'my pictures'
    with pytest.raises(ConfigError, match='inside the pictures'):
        said(pictures, out=pictures / 'run')
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='is a file'):
        said(pictures, out=tmp_path / 'file')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.txt').touch()
    with pytest.raises(ConfigError, match='is not empty'):
        said(pictures, out=tmp_path / 'full')
    with pytest.raises(ConfigError, match=r'has no config.py to resume'):
        finetune(pictures, out=tmp_path / 'full', resume=True)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'base': 'detr_r5_finetune'}, 'no such config: detr_r5_finetune; near: detr_r50_finetune'),
        ({'weights': 'nothing.pth'}, 'no such file: .*nothing.pth'),
        ({'epochs': 0}, 'epochs has to be at least 1, got 0'),
        ({'batch': -1}, 'batch has to be at least 1, got -1'),
    ],
)
def test_options_that_cannot_be_used(folder, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        said(folder / 'my pictures', out=tmp_path / 'run', **options)
    assert not (tmp_path / 'run').exists()


def test_devices(folder):
    with pytest.raises(ConfigError, match="got 'tpu'"):
        finetune(folder / 'my pictures', device='tpu')
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match='no GPU that PyTorch can use'):
            finetune(folder / 'my pictures', device='cuda')


def test_the_page(monkeypatch):
    """It lists the options of the command, and its Python calls the functions as they are."""
    page = (ROOT / 'docs' / 'finetuning.md').read_text()
    listed = set(re.findall(r'^\| `(--\w+)', page, re.MULTILINE))
    help_text = run_tool('finetune', '--help').stdout
    assert listed == set(re.findall(r'^  (--\w+)', help_text, re.MULTILINE))
    calls = {name: create_autospec(getattr(own_data, name)) for name in ('finetune', 'prepare', 'read_folder')}
    for name, function in calls.items():
        monkeypatch.setattr(own_data, name, function)
    exec(re.search(r'```python\n(from mmdet_detr.own_data.*?)```', page, re.DOTALL)[1], {})
    assert calls['finetune'].called
    assert calls['read_folder'].called


def test_one_line_on_the_terminal(tmp_path):
    done = run_tool('finetune', 'nowhere', '--base', ROOT / 'configs/detr/detr_tiny_shapes.py', cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.splitlines()[-1] == 'finetune: no such folder: nowhere'
    with pytest.raises(OwnDataError):
        said(tmp_path / 'nowhere')


CHILD = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path('started').touch()
time.sleep(60)
"""
PARENT = """
import argparse, pathlib
from mmdet_detr.cli.finetune import main
from mmdet_detr.own_data import training
training.packaged = lambda path: pathlib.Path('child.py')
training.prepare = lambda *_: 'config.py'
main(argparse.Namespace(folder='.', weights=None, base=None, epochs=None, batch=None, device='cpu', out=None, seed=0,
                        prepare=False, resume=False))
"""


def test_a_request_to_end_reaches_the_training(tmp_path):
    """And the exit code of the training is that of the command, by which a scheduler knows that it may be resumed."""
    (tmp_path / 'child.py').write_text(CHILD)
    process = Forked('-c', PARENT, cwd=tmp_path)
    wait_for((tmp_path / 'started').exists, process)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 75


@pytest.mark.parametrize(('checkpoint', 'arguments'), [(False, []), (True, ['--resume'])])
def test_resuming(tmp_path, monkeypatch, checkpoint, arguments):
    """Without a checkpoint, the run starts as it would have: mmdet would forget the weights to start from."""
    (tmp_path / 'config.py').touch()
    if checkpoint:
        (tmp_path / 'last_checkpoint').touch()
    started = []

    def start(tool, environment, *given):
        started.append([tool, *given])
        raise TrainingError('train ended with exit code 1', 1)

    monkeypatch.setattr(training, '_start', start)
    with pytest.raises(TrainingError):
        finetune(tmp_path, out=tmp_path, resume=True)
    assert started == [['train', tmp_path / 'config.py', *arguments]]
