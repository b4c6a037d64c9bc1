"""README and docs name only what exists, and their examples work."""

import json
import re

import pytest
from helpers import ROOT
from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from mmengine.registry import HOOKS

from mmdet_detr.models import HungarianAssigner
from mmdet_detr.reports.speed import markdown

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')), *sorted((ROOT / 'benchmarks').rglob('*.md'))]
PATH = re.compile(r'`((?:configs|tools|tests|benchmarks|docs|models|datasets|engine|checkpoints)/[\w./-]+\.\w+)`')
LINK = re.compile(r'\]\((?!https?://)([^)#]+)\)')


def paths_on(page):
    text = page.read_text()
    for link in LINK.findall(text):
        yield link, page.parent / link
    for path in PATH.findall(text):
        yield (
            path,
            ROOT
            / ('mmdet_detr' if path.startswith(('models/', 'datasets/', 'engine/', 'checkpoints/')) else '')
            / path,
        )
    for path in re.findall(r'\bconfigs/\w+/[\w-]+\.py\b', text):
        yield path, ROOT / path


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page):
    missing = [name for name, path in paths_on(page) if not path.exists()]
    assert not missing


def test_make_targets_and_tools_exist():
    makefile = (ROOT / 'Makefile').read_text()
    for page in PAGES:
        text = page.read_text()
        for target in re.findall(r'(?:`|^)make ([a-z-]+)', text, re.MULTILINE):
            assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
        for tool in re.findall(r'mim run mmdet_detr ([a-z_]+)', text):
            assert (ROOT / 'tools' / f'{tool}.py').is_file(), tool


def example_config(number: int, tmp_path, page: str = 'README.md') -> Config:
    """One of the configs on a page."""
    blocks = re.findall(r'```python\n(_base_.*?)```', (ROOT / page).read_text(), re.DOTALL)
    path = tmp_path / 'example.py'
    path.write_text(blocks[number].replace("'configs/", f"'{ROOT}/configs/"))
    return Config.fromfile(path)


def test_head_on_another_model(tmp_path):
    ours = Config.fromfile(ROOT / 'configs/mixed/yolof_r50-c5_detr-head_8xb8-1x_coco.py').model
    assert example_config(1, tmp_path).model.bbox_head == ours.bbox_head


def test_configs_of_the_page_on_mixing(tmp_path):
    """They are those of configs/mixed, which are tested."""
    config = example_config(0, tmp_path, 'docs/mixing.md')
    ours = Config.fromfile(ROOT / 'configs/mixed/retinanet_r50_fpn_detr-head_1x_coco.py')
    assert config.model == ours.model
    assert config.optim_wrapper.clip_grad == ours.optim_wrapper.clip_grad
    assert config.optim_wrapper.optimizer == ours.optim_wrapper.optimizer
    config = example_config(1, tmp_path, 'docs/mixing.md')
    ours = Config.fromfile(ROOT / 'configs/mixed/faster-rcnn_r50_fpn_aux-detr_1x_coco.py')
    assert {**config.model, 'predict_by': 'detector'} == ours.model


def test_assigner_in_another_model(tmp_path):
    config = example_config(2, tmp_path)
    assert config.model.type == 'DINO'
    assert isinstance(TASK_UTILS.build(config.model.train_cfg.assigner), HungarianAssigner)
    for hook in config.custom_hooks:
        HOOKS.build(hook)


def test_config_that_survives(tmp_path):
    config = example_config(0, tmp_path, 'docs/reliability.md')
    ours = Config.fromfile(ROOT / 'configs/detr/detr_r50_8x2_150e_coco.py')
    for loader, our_loader in (
        (config.train_dataloader, ours.train_dataloader),
        (config.val_dataloader, ours.val_dataloader),
    ):
        assert loader.worker_init_fn == our_loader.worker_init_fn
        assert loader.dataset.type == our_loader.dataset.type
    assert config.train_dataloader.sampler == ours.train_dataloader.sampler
    assert config.default_hooks.checkpoint.type == ours.default_hooks.checkpoint.type
    hooks = {hook.type for hook in config.custom_hooks}
    assert hooks < {hook.type for hook in ours.custom_hooks}
    for hook in config.custom_hooks:
        HOOKS.build(hook)


def test_config_for_own_data(tmp_path):
    config = example_config(0, tmp_path)
    assert config.model.bbox_head.num_classes == 2
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.data_root == 'data/mine/'
        assert loader.dataset.metainfo.classes == ('cat', 'dog')
        assert loader.dataset.ann_file.startswith('annotations/instances_')
    assert config.val_evaluator.ann_file == 'data/mine/annotations/instances_val2017.json'
    assert config.model.neck.type == 'mmdet_detr.TransformerNeck'


SHOWN_IN = {
    'checkpoints': 'docs/checkpoints.md',
    'mixed': 'docs/mixing.md',
    'means_cpu': 'benchmarks/notes.md',
    'padding': 'benchmarks/notes.md',
    'plan': 'docs/scaling.md',
    'reliability': 'benchmarks/reliability.md',
    'soak': 'benchmarks/reliability.md',
    'log_history': 'benchmarks/notes.md',
}


@pytest.mark.parametrize(
    'name',
    [
        'checkpoints',
        'mixed',
        'speed_cpu_summary',
        'speed_types_cpu_summary',
        'speed_shapes_cpu',
        'budget_shapes',
        'budget_bccd',
        'scaling_cpu',
        'means_cpu',
        'padding',
        'plan',
        'reliability',
        'soak',
        'log_history',
    ],
)
def test_measured_figures_are_those_of_the_script(name):
    page = (ROOT / SHOWN_IN.get(name, 'docs/benchmarks.md')).read_text()
    assert (ROOT / f'benchmarks/results/{name}.md').read_text() in page


@pytest.mark.parametrize('path', sorted((ROOT / 'benchmarks' / 'results').glob('speed_*.json')), ids=lambda p: p.stem)
def test_speed_tables_are_those_of_the_json(path):
    assert path.with_suffix('.md').read_text() == markdown(json.loads(path.read_text()))
