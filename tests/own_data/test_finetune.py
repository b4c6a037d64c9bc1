"""The whole command, on a tiny network."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch
from helpers import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from own_pictures import coco, write_coco, write_images, write_voc, write_yolo
from processes import Forked, run_tool, wait_for

from mmdet_detr import own_data
from mmdet_detr.configs import load_config
from mmdet_detr.errors import ConfigError, UserError
from mmdet_detr.own_data import OwnDataError, finetune, prepare, read_folder, training
from mmdet_detr.own_data.training import TrainingError

TINY = 'detr_tiny_shapes'


MIM = 2  # lines that mim run prints before those of the command


def yolo_folder(pictures: Path) -> None:
    write_images(pictures / 'images')
    write_yolo(pictures / 'labels')
    (pictures / 'classes.txt').write_text('cat\ndog\n')


def coco_folder(pictures: Path) -> None:
    write_images(pictures / 'images')
    write_coco(pictures / 'boxes.json')


def roboflow_folder(pictures: Path) -> None:
    for split, names in (('train', 'abcd'), ('valid', 'be')):
        write_images(pictures / split, names)
        document = coco(names)
        document['categories'].insert(0, {'id': 0, 'name': 'pets', 'supercategory': 'none'})
        for category in document['categories'][1:]:
            category['supercategory'] = 'pets'
        (pictures / split / '_annotations.coco.json').write_text(json.dumps(document))


def voc_folder(pictures: Path) -> None:
    write_images(pictures)
    write_voc(pictures)


@pytest.fixture
def folder(tmp_path):
    yolo_folder(tmp_path / 'my pictures')
    return tmp_path


@pytest.fixture
def processes(tmp_path, monkeypatch) -> list[Forked]:
    """Training and test are forked here, which saves the start of two interpreters."""
    started: list[Forked] = []

    def start(command: list[str], env: dict[str, str]) -> Forked:
        started.append(Forked(*command[1:], cwd=tmp_path, **env))
        return started[-1]

    monkeypatch.setattr(training, 'subprocess', SimpleNamespace(Popen=start))
    monkeypatch.chdir(tmp_path)
    return started


@pytest.fixture
def weights(tmp_path) -> str:
    """A checkpoint of the tiny network for three classes that no folder here has."""
    model = MODELS.build(Config.fromfile(ROOT / 'configs' / 'detr' / f'{TINY}.py').model)
    meta = {'dataset_meta': {'classes': ('circle', 'square', 'triangle')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'weights.pth')
    return str(tmp_path / 'weights.pth')


def files_of(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.parametrize(
    ('write', 'kind'),
    [
        (yolo_folder, 'YOLO'),
        pytest.param(coco_folder, 'COCO', marks=pytest.mark.slow),
        pytest.param(roboflow_folder, 'COCO', marks=pytest.mark.slow),
        pytest.param(voc_folder, 'Pascal VOC', marks=pytest.mark.slow),
    ],
)
def test_from_the_folder_to_the_report(write: Callable[[Path], None], kind, tmp_path, processes, weights, capfd):
    pictures = tmp_path / 'my pictures'
    write(pictures)
    before = files_of(pictures)
    lines: list[str] = []
    as_prepared: list[bytes] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith('config: '):
            as_prepared.append((tmp_path / 'work_dirs' / 'finetune_my_pictures' / 'config.py').read_bytes())

    run = finetune('my pictures', base=TINY, weights=weights, epochs=1, batch=2, device='cpu', say=say)
    assert run == tmp_path / 'work_dirs' / 'finetune_my_pictures'
    assert any(f'{kind}; train 4 images with ' in line and line.endswith('classes (2): cat, dog') for line in lines)
    assert f'best checkpoint: {run}/best_coco_bbox_mAP_epoch_1.pth' in lines
    assert any(line.startswith('AP ') and line.endswith(f'are in {run}') for line in lines)
    assert files_of(pictures) == before
    written = {path.name for path in run.iterdir()}
    assert {'annotations', 'config.py', 'curve.png', 'data_check', 'predictions.png', 'split.json'} < written
    record = json.loads((run / 'split.json').read_text())
    assert record['seed'] == 0
    assert record['classes'] == ['cat', 'dog']
    for split in ('train', 'val'):
        images = json.loads((run / 'annotations' / f'{split}.json').read_text())['images']
        assert [image['file_name'] for image in images] == record[split]
    checkpoint = torch.load(run / 'best_coco_bbox_mAP_epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 2
    assert checkpoint['meta']['dataset_meta']['classes'] == ('cat', 'dog')

    page = (run / 'evaluation' / 'index.html').read_text()
    table = page.partition('<h2>Classes</h2>')[2].partition('</table>')[0]
    assert re.findall('<tr><td>(.*?)</td>', table) == ['cat', 'dog']

    trained = processes[0].communicate()
    first = trained[0][: trained[0].index('Epoch(train)')].splitlines()[:-1]
    assert sum('Loaded ' in line for line in first) == 1
    at_first = lines[: next(n for n, line in enumerate(lines) if line.startswith('config: ')) + 1]
    assert MIM + len(at_first + first + (trained[1] + capfd.readouterr().err).splitlines()) <= 15
    log = min(run.glob('*/*.log')).read_text()
    assert 'classes that keep their initial values: cat, dog' in log

    assert as_prepared == [(run / 'config.py').read_bytes()]
    assert load_config(run / 'config.py').load_from == weights


def test_a_second_run_needs_another_folder(folder):
    run = folder / 'work_dirs' / 'finetune_my_pictures'
    prepare(folder / 'my pictures', base=TINY, out=run)
    done = run_tool('finetune', 'my pictures', '--base', TINY, cwd=folder)
    message = f'finetune: {run} has a run already: name another folder by --out, or go on with that one by --resume\n'
    assert (done.returncode, done.stdout.splitlines()[-1:], done.stderr[-len(message) :]) == (2, [], message)


def test_the_written_config_trains_by_itself_and_goes_on(folder, tmp_path, processes, weights):
    run = tmp_path / 'run'
    config = prepare(folder / 'my pictures', weights, TINY, epochs=2, batch=4, out=run)
    as_prepared = config.read_bytes()
    done = run_tool('train', config, '--cfg-options', 'train_cfg.max_epochs=1', cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (run / 'epoch_1.pth').is_file()
    assert config.read_bytes() == as_prepared
    finetune('my pictures', out=run, device='cpu', resume=True)
    trained = processes[0].communicate()[0]
    assert 'resumed after iteration 1\n' in trained  # the whole summary: nothing was said before
    assert (run / 'epoch_2.pth').is_file()
    assert config.read_bytes() == as_prepared


def said(folder, **options) -> list[str]:
    lines: list[str] = []
    prepare(folder, base=options.pop('base', TINY), say=lines.append, **options)
    return lines


def test_findings_are_said_and_not_fatal(tmp_path):
    write_images(tmp_path / 'mine')
    document = coco('abcd')
    document['annotations'].pop()  # of d
    (tmp_path / 'mine' / 'train.json').write_text(json.dumps(document))
    write_coco(tmp_path / 'mine' / 'val.json', 'de')
    lines = said(tmp_path / 'mine', out=tmp_path / 'run')
    assert any('images that are also trained on, which make the AP too high: 1' in line for line in lines)
    assert any('train: 2 x images without boxes' in line for line in lines)
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


@pytest.mark.parametrize('place', ['class', 'folder'])
def test_braces_that_mmengine_replaces(tmp_path, place):
    pictures = tmp_path / ('{{ fileDirname }}' if place == 'folder' else 'pictures')
    yolo_folder(pictures)
    if place == 'class':
        (pictures / 'classes.txt').write_text('cat\na {{ fileBasename }}\n')
    with pytest.raises(
        ConfigError, match=r'\{\{ file.*cannot stand in a config, where mmengine .*: rename it$'
    ) as caught:
        said(pictures, out=tmp_path / 'run')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run' / 'config.py').exists()


def test_many_notes(folder, monkeypatch):
    """The first ones are said, all are kept."""
    data = read_folder(folder / 'my pictures')
    data.notes = [f'note {n}' for n in range(6)]
    monkeypatch.setattr(training, 'read_folder', lambda *_: data)
    lines = said(folder / 'my pictures', out=folder / 'run')
    assert lines[1:5] == ['  note 0', '  note 1', '  note 2', '  and 3 more notes in split.json']
    assert json.loads((folder / 'run' / 'split.json').read_text())['notes'] == data.notes


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
    (tmp_path / 'config.py').touch()
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
