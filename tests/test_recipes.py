"""The blocks of docs/recipes.md, and of the section on own loaders in docs/data.md, run as they stand there."""

import importlib.util
import json
import os
import re
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from PIL import Image
from processes import run, run_tool

from mmdet_detr.checkpoints.files import load_from_local
from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes
from mmdet_detr.runs import find_checkpoint

PAGE = (ROOT / 'docs' / 'recipes.md').read_text()
BLOCKS = {
    title: re.search(r'```python\n(.*?)```', text, re.DOTALL)[1]
    for title, text in re.findall(r'^## (.*?)\n(.*?)(?=^## |\Z)', PAGE, re.DOTALL | re.MULTILINE)
}
QUICK = (
    'train_dataloader.batch_size=4',
    'val_dataloader.batch_size=4',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=1',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A checkout with little data."""
    root = tmp_path_factory.mktemp('recipes')
    (root / 'configs').symlink_to(ROOT / 'configs')
    for split, count in (('train', 8), ('val', 4)):
        list(write_shapes(root / 'data' / 'shapes', split, count, ShapesOptions()))
    return root


def write(folder: Path, title: str) -> Path:
    path = folder / f'{re.sub("[^a-z]", "", title.lower())}.py'
    path.write_text(BLOCKS[title])
    return path


def train(folder: Path, title: str, iterations: int, *options: str) -> tuple[Path, subprocess.CompletedProcess]:
    """Train by a recipe; gives the folder of the run and its process."""
    config = write(folder, title)
    options = (*QUICK, f'train_cfg.max_iters={iterations}', *options)
    done = run_tool('train', config, '--work-dir', f'runs/{config.stem}', '--cfg-options', *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / 'runs' / config.stem, done


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f'needs {package}')


def test_averaged_weights(folder):
    work, _ = train(folder, 'Averaged weights', 2, 'train_cfg.val_interval=2')
    checkpoint = load_from_local(str(work / 'iter_2.pth'))
    average, last = checkpoint['state_dict'], checkpoint['ema_state_dict']
    name = 'neck.query_embed.weight'
    moved = (average[name] - last[f'module.{name}']).abs().max()
    assert 0 < moved < 0.1


def test_the_best_checkpoint_and_an_early_end(folder):
    """Without learning, of batch norms' means neither, the second validation is no better than the first."""
    title = 'The best checkpoint, and an end when nothing gets better'
    stop = len(Config.fromfile(write(folder, title)).custom_hooks) - 1
    rates = ('optim_wrapper.optimizer.lr=0', 'optim_wrapper.muon.lr=0', 'model.backbone.norm_eval=True')
    work, _ = train(folder, title, 9, 'train_cfg.val_interval=1', f'custom_hooks.{stop}.patience=1', *rates)
    assert find_checkpoint(work).name == 'best_coco_bbox_mAP_iter_1.pth'
    assert 'iter_2.pth' in (work / 'last_checkpoint').read_text()


def test_ap_of_every_class(folder):
    work, _ = train(folder, 'AP of every class', 1, 'train_cfg.val_interval=1')
    logged = [json.loads(line) for line in next(work.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert {'coco/circle_precision', 'coco/square_precision', 'coco/triangle_precision'} <= logged[-1].keys()


@needs('tensorboard')
def test_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    work, _ = train(folder, 'TensorBoard', 2, 'train_cfg.val_interval=2')
    events = EventAccumulator(str(next(work.glob('*/vis_data/events*')))).Reload()
    assert [scalar.step for scalar in events.Scalars('loss')] == [1, 2]
    assert 'coco/bbox_mAP' in events.Tags()['scalars']


@needs('wandb')
def test_weights_and_biases(folder):
    work, _ = train(folder, 'Weights & Biases, without a network', 1, 'train_cfg.val_interval=1')
    assert list(work.glob('*/vis_data/wandb/offline-run-*/*.wandb'))


@needs('mlflow')
@needs('sqlalchemy')  # mlflow-skinny has no data base
def test_mlflow(folder):
    train(folder, 'MLflow, in a file', 2, 'train_cfg.val_interval=2')
    with sqlite3.connect(folder / 'mlflow.db') as base:
        keys = {key for (key,) in base.execute('select distinct key from metrics')}
    assert {'loss', 'coco/bbox_mAP'} <= keys


@needs('albumentations')
def test_albumentations(folder):
    """A turned image has its boxes turned, and a run trains on it."""
    title = 'Augmentation by albumentations'
    config = Config.fromfile(write(folder, title))
    step = config.albu
    step.transforms = [{'type': 'RandomRotate90', 'p': 1.0}]
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:20, 30:60] = 255
    boxes = {'gt_bboxes': HorizontalBoxes(torch.tensor([[30.0, 10, 60, 20]]))}
    labels = {'gt_bboxes_labels': np.array([2]), 'gt_ignore_flags': np.array([False])}
    turned = TRANSFORMS.build(step).transform({'img': image, 'img_shape': (64, 64), **boxes, **labels})
    rows, columns = turned['img'][..., 0].nonzero()
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert turned['gt_bboxes'].tensor[0].tolist() == pytest.approx(corners, abs=1e-3)
    assert turned['gt_bboxes_labels'].tolist() == [2]
    _, done = train(folder, title, 1, 'train_cfg.val_interval=9')
    assert 'left out' not in done.stdout


def test_small_objects_in_large_images(folder):
    """Each of four images beside one another is seen by itself, and boxes are in pixels of the whole."""
    done = run_tool(
        'train',
        'configs/detr/detr_tiny_shapes.py',
        '--work-dir',
        'work_dirs/demo',
        '--cfg-options',
        *QUICK,
        'train_cfg.max_iters=1',
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    os.replace(folder / 'work_dirs/demo/iter_1.pth', folder / 'work_dirs/demo/iter_3800.pth')
    tiles = [Image.open(path) for path in sorted((folder / 'data' / 'shapes' / 'val').iterdir())[:2]]
    large = Image.new('RGB', (128, 64))
    for i, tile in enumerate(tiles):
        large.paste(tile, (64 * i, 0))
    large.save(folder / 'large.png')
    block = BLOCKS['Small objects in large images'].replace('> 0.5', '> 0.0')
    (folder / 'slices.py').write_text(f'{block}\nprint("RESULT", detections.xyxy.tolist())\n')
    done = run(folder / 'slices.py', cwd=folder)
    assert done.returncode == 0, done.stderr
    boxes = np.array(json.loads(done.stdout.split('RESULT ')[1]))
    assert boxes.min() >= 0
    assert boxes[:, 2].max() > 64
    assert boxes[:, 3].max() <= 64


def test_images_that_only_an_own_loader_reads(folder, tmp_path):
    """Training, validation and check_data on five bands of uint16."""
    page = (ROOT / 'docs' / 'data.md').read_text()
    section = re.search(r'^## Images that only your own loader reads\n(.*?)^## ', page, re.DOTALL | re.MULTILINE)[1]
    loader, config = re.findall(r'```python\n(.*?)```', section, re.DOTALL)
    (tmp_path / 'bands.py').write_text(loader)
    (tmp_path / 'config.py').write_text(config)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    for split in ('train', 'val'):
        data, source = tmp_path / 'data' / 'shapes', folder / 'data' / 'shapes'
        (data / split).mkdir(parents=True)
        (data / 'annotations').mkdir(exist_ok=True)
        for path in (source / split).iterdir():
            pixels = np.asarray(Image.open(path)).astype(np.uint16) * 39
            np.save(data / split / f'{path.stem}.npy', np.concatenate([pixels, pixels[..., :2]], axis=-1))
        name = f'instances_{split}.json'
        (data / 'annotations' / name).write_text((source / 'annotations' / name).read_text().replace('.jpg', '.npy'))

    def tool(name: str, *arguments: str) -> subprocess.CompletedProcess:
        path = ROOT / 'tools' / f'{name}.py'
        code = (
            f'import runpy, sys; sys.path.append({str(path.parent)!r}); sys.argv[1:] = {[*arguments]!r}\n'
            f'runpy.run_path({str(path)!r}, run_name="__main__")'
        )
        return run('-c', code, cwd=tmp_path)

    options = ('--cfg-options', *QUICK, 'train_cfg.max_iters=1', 'train_cfg.val_interval=1')
    done = tool('train', 'config.py', '--work-dir', 'run', *options)
    assert done.returncode == 0, done.stderr
    assert load_from_local(str(tmp_path / 'run' / 'iter_1.pth'))['state_dict']['backbone.conv1.weight'].shape[1] == 5
    done = tool('check_data', 'config.py')
    assert done.returncode == 0, done.stdout
    assert done.stdout.count('nothing wrong') == 2
