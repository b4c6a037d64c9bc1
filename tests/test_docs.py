"""README and docs name only what exists, and their examples work."""

import json
import re

import pytest
from helpers import ROOT
from mmdet.registry import DATASETS, MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS

from mmdet_detr.models import HungarianAssigner
from mmdet_detr.reports.speed import markdown

TOP = ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')
PAGES = [
    *(ROOT / name for name in TOP),
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'benchmarks').rglob('*.md')),
]
RESULTS = ROOT / 'benchmarks' / 'results'
FOLDERS = ('configs', 'tools', 'tests', 'benchmarks', 'docs')
IN_PACKAGE = ('models', 'datasets', 'engine', 'checkpoints', 'compat', 'cli', 'reports', 'speed', 'data_check')
PATH = re.compile(rf'`((?:{"|".join(FOLDERS + IN_PACKAGE)})/[\w./-]+)`')
LINK = re.compile(r'\]\((?!https?://)([^)#]+)\)')


def paths_on(page):
    text = page.read_text()
    for link in LINK.findall(text):
        yield link, page.parent / link
    for path in PATH.findall(text):
        yield path, ROOT / ('mmdet_detr' if path.startswith(IN_PACKAGE) else '') / path
    for path in re.findall(r'\bconfigs/\w+/[\w-]+\.py\b', text):
        yield path, ROOT / path


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page):
    missing = [name for name, path in paths_on(page) if not path.exists()]
    assert not missing


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_scripts_and_tools_exist(page):
    makefile = (ROOT / 'Makefile').read_text()
    text = page.read_text()
    for targets in re.findall(r'(?:`|^)(?:\w+=\S+ )?make ([a-z -]+)', text, re.MULTILINE):
        for target in targets.split():
            assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
    for tool in re.findall(r'mim run mmdet_detr ([a-z_]+)', text):
        assert (ROOT / 'tools' / f'{tool}.py').is_file(), tool
    for script in re.findall(r'python ((?:tools|benchmarks)/\w+\.py)', text):
        assert (ROOT / script).is_file(), script


def test_every_page_can_be_reached_from_the_readme():
    seen, waiting = set(), [ROOT / 'README.md']
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            links = LINK.findall(page.read_text())
            waiting += [(page.parent / link).resolve() for link in links if link.endswith('.md')]
    assert {page.resolve() for page in PAGES} <= seen


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 90
    assert len((ROOT / 'CONTRIBUTING.md').read_text().splitlines()) <= 40


def example_config(number: int, tmp_path, page: str) -> Config:
    """One of the configs on a page."""
    blocks = re.findall(r'```python\n(_base_.*?)```', (ROOT / page).read_text(), re.DOTALL)
    path = tmp_path / 'example.py'
    path.write_text(blocks[number].replace("'configs/", f"'{ROOT}/configs/"))
    return Config.fromfile(path)


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
    config = example_config(2, tmp_path, 'docs/mixing.md')
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
    config = example_config(0, tmp_path, 'docs/finetuning.md')
    assert config.model.bbox_head.num_classes == 2
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.data_root == 'data/mine/'
        assert loader.dataset.metainfo.classes == ('cat', 'dog')
        assert loader.dataset.ann_file.startswith('annotations/instances_')
    assert config.val_evaluator.ann_file == 'data/mine/annotations/instances_val2017.json'
    assert config.model.neck.type == 'mmdet_detr.TransformerNeck'


def test_panoptic_data(tmp_path, shapes):
    """The data set of the page on data, on shapes that were generated just now."""
    page = (ROOT / 'docs' / 'data.md').read_text()
    path = tmp_path / 'example.py'
    path.write_text(re.search(r'```python\n(train_dataloader.*?)```', page, re.DOTALL)[1])
    dataset = Config.fromfile(path).train_dataloader.dataset
    assert dataset.pop('_delete_')
    data = DATASETS.build({**dataset, 'data_root': str(shapes)})
    assert len(data) == 24
    assert len(data.metainfo['thing_classes']) == 3
    objects = data[0]['data_samples'].gt_instances
    assert objects.masks.masks.sum(0).tolist() == [[1] * 64] * 64  # every pixel belongs to one segment


def test_parts_of_the_pages_on_masks_and_convergence_build(tmp_path):
    blocks = [
        block
        for name in ('segmentation', 'convergence')
        for block in re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / f'{name}.md').read_text(), re.DOTALL)
    ]
    base = ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'
    path = tmp_path / 'example.py'
    path.write_text('\n'.join([f'_base_ = [{str(base)!r}]', *blocks]))
    config = Config.fromfile(path)
    config.merge_from_dict({'model': {'bbox_head': config.bbox_head, 'test_cfg': config.test_cfg}})
    model = MODELS.build(config.model)
    assert model.mask_head.test_cfg == {'score_thr': 0.85, 'min_area': 5}
    assert [type(part).__name__ for part in model.bbox_head.training_queries] == ['QueryGroups', 'DenoisingQueries']
    assert model.bbox_head.dense_supervision is not None
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    assert {group['lr'] for group in optimizer.param_groups} == {0.01, 1e-3, 1e-4}  # the backbone's is a tenth


def test_config_that_changes_one_of_ours(tmp_path):
    config = example_config(0, tmp_path, 'docs/configs.md')
    ours = Config.fromfile(ROOT / 'configs/detr/detr_r50_8x2_150e_coco.py')
    assert config.model.neck == {**ours.model.neck, 'num_queries': 300}
    assert config.model.test_cfg == {'max_per_img': 300}
    assert config.custom_hooks == ours.custom_hooks


def test_every_result_is_linked_from_a_page():
    """And every link leads to a file, by test_paths_exist: a table is in one place, which its script writes."""
    pages = [page for page in PAGES if page.parent != RESULTS]
    linked = {(page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text())}
    missing = sorted(path.name for path in RESULTS.iterdir() if path.resolve() not in linked)
    assert not missing
    for page in pages:
        for table in (path for path in RESULTS.glob('*.md') if path.read_text().count('\n') > 3):
            assert table.read_text() not in page.read_text(), f'{page}: link {table.name} instead of pasting it'


@pytest.mark.parametrize('path', sorted(RESULTS.glob('speed_*.json')), ids=lambda p: p.stem)
def test_speed_tables_are_those_of_the_json(path):
    assert path.with_suffix('.md').read_text() == markdown(json.loads(path.read_text()))
