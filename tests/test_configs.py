import json
import math
import re
import shutil

import pytest
import yaml
from helpers import DETR_CONFIGS, ROOT
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())
METAFILES = [yaml.safe_load((ROOT / path).read_text()) for path in INDEX['Import']]
ENTRIES = [entry for metafile in METAFILES for entry in metafile['Models']]


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    """Annotation files where the fine-tuning configs look for them."""
    folder = tmp_path / 'own'
    folder.mkdir()
    for split in ('train', 'val'):
        categories = [{'id': 7, 'name': 'dog'}, {'id': 3, 'name': 'cat'}, {'id': 9, 'name': 'gnu'}]
        (folder / f'{split}.json').write_text(json.dumps({'categories': categories}))
    monkeypatch.setenv('DATA_ROOT', str(folder))
    return folder


def load(path) -> Config:
    config = Config.fromfile(path)
    config.model.backbone.init_cfg = None  # no download
    return config


def test_there_are_configs():
    assert {
        'detr_r50_8x2_150e_coco',
        'detr_r50_8x2_500e_coco',
        'detr_r101_8x2_500e_coco',
        'detr_r18_8x2_500e_coco',
        'detr_r50-dc5_8x1_500e_coco',
        'detr_r101-dc5_8x1_500e_coco',
        'detr_r50_fast_8x2_12e_coco',
        'detr_r50_fast_8x2_50e_coco',
        'detr_tiny_shapes',
        'detr_tiny_shapes_plain',
        'detr_r18_bccd',
        'detr_r18_bccd_plain',
        'detr_r50_finetune',
        'detr_r50_finetune_frozen-backbone',
    } <= {path.stem for path in DETR_CONFIGS}
    names = [path.name for path in (ROOT / 'configs').rglob('*.py')]
    assert len(set(names)) == len(names)  # mim finds them by name


def test_bases_are_found_in_an_installed_package(tmp_path):
    """There the folder lies elsewhere (``.mim/configs``): relative bases have to be within it."""
    for path in (ROOT / 'configs').rglob('*.py'):
        for base in re.findall(r"'(\.\.?/[^']+\.py)'", path.read_text()):
            target = (path.parent / base).resolve()
            assert target.is_file(), f'{path}: {base}'
            assert target.is_relative_to(ROOT / 'configs'), f'{path}: {base}'
    shutil.copytree(ROOT / 'configs', tmp_path / '.mim' / 'configs')
    name = 'configs/mixed/detr_r50_aux-fcos_8x2_150e_coco.py'
    assert Config.fromfile(tmp_path / '.mim' / name).to_dict() == Config.fromfile(ROOT / name).to_dict()


MIXED = [path for path in sorted((ROOT / 'configs' / 'mixed').glob('*.py')) if 'aux-fcos' not in path.stem]


@pytest.mark.parametrize('path', MIXED, ids=lambda path: path.stem)
def test_mixed_configs_differ_in_what_the_head_reads_and_in_the_learning_rate(path):
    config = Config.fromfile(path, import_custom_modules=False)
    head = config.model.get('bbox_head', None) or config.model.aux_head
    assert head.keys() == {'type', 'num_classes', 'transformer'}
    assert (head.type, head.num_classes) == ('mmdet_detr.DETRHead', 80)
    assert head.transformer.keys() <= {'type', 'in_channels', 'levels', 'input_norm'}
    if 'detr-head' in path.stem:
        assert config.model.test_cfg == {'max_per_img': 100}
    batch = re.search(r'_(\d+)xb(\d+)', path.stem)
    images = int(batch[1]) * int(batch[2]) if batch else 16  # mmdet's names without a batch mean 8 GPUs x 2 images
    optimizer = config.optim_wrapper.optimizer
    assert optimizer.lr == pytest.approx(1e-4 * math.sqrt(images / 16), rel=0.02)
    assert optimizer == {'type': 'AdamW', 'lr': optimizer.lr, 'weight_decay': 1e-4}
    assert config.optim_wrapper.clip_grad == {'max_norm': 0.1, 'norm_type': 2}
    assert config.optim_wrapper.paramwise_cfg.custom_keys == {'backbone': {'lr_mult': 0.1}}


@pytest.mark.parametrize('path', DETR_CONFIGS, ids=lambda path: path.stem)
def test_builds_dumps_and_reloads(path, tmp_path):
    config = load(path)
    first, second = MODELS.build(config.model), MODELS.build(config.model)
    assert first.state_dict().keys() == second.state_dict().keys()
    for pipeline in (config.train_dataloader.dataset.pipeline, config.test_dataloader.dataset.pipeline):
        for transform in pipeline:
            TRANSFORMS.build(transform)
    config.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == config.to_dict()
    guards = {'SkipNonFiniteHook', 'MatchReportHook', 'LogHistoryHook', 'ReproducibleHook', 'PreemptionHook'}
    assert {f'mmdet_detr.{name}' for name in guards | {'RunSummaryHook'}} <= {hook.type for hook in config.custom_hooks}
    assert config.default_hooks.checkpoint.type == 'mmdet_detr.AtomicCheckpointHook'


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('[a-z]*/*.py')), ids=lambda path: path.stem)
def test_the_terminal_is_short(path):
    assert Config.fromfile(path, import_custom_modules=False).log_processor.type == 'mmdet_detr.LogProcessor'


COCO = [path for path in DETR_CONFIGS if path.stem.endswith('coco')]


@pytest.mark.parametrize('path', [p for p in COCO if 'fast' not in p.stem], ids=lambda path: path.stem)
def test_official_recipe(path):
    config = load(path)
    drops = {25: 15, 150: 100, 300: 200, 500: 400}
    epochs = int(re.search(r'_(\d+)e_', path.stem)[1])
    drop = drops[epochs]
    assert config.train_cfg.max_epochs == config.param_scheduler[0].end == epochs
    assert config.param_scheduler[0].milestones == [drop]
    by_strategy = config.get('strategy', {}).get('gradient_clipping')  # DeepSpeed clips by itself
    assert (by_strategy or config.optim_wrapper.clip_grad.max_norm) == 0.1
    assert config.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 1e-4}
    assert config.optim_wrapper.paramwise_cfg.custom_keys == {'backbone': {'lr_mult': 0.1}}
    gpus, images = map(int, re.search(r'(\d+)x(\d+)', path.stem).groups())
    assert config.train_dataloader.batch_size == images
    assert config.auto_scale_lr == {'enable': False, 'base_batch_size': gpus * images}
    assert config.train_dataloader.dataset.filter_cfg == {'filter_empty_gt': False}
    assert config.train_dataloader.batch_sampler is None
    assert config.train_dataloader.drop_last
    resized, cropped = next(t for t in config.train_dataloader.dataset.pipeline if t.type == 'RandomChoice').transforms
    scales = list(range(480, 801, 32))
    assert [(t.sizes, t.longest) for t in (resized[0], cropped[2])] == [(scales, 1333)] * 2
    assert (cropped[0].sizes, cropped[0].longest) == ([400, 500, 600], None)
    assert (cropped[1].crop_size, cropped[1].allow_negative_crop) == ((384, 600), True)
    test_resize = next(t for t in config.test_dataloader.dataset.pipeline if 'sizes' in t)
    assert (test_resize.sizes, test_resize.longest) == ([800], 1333)
    assert config.model.bbox_head.num_classes == (133 if 'panoptic' in path.stem else 80)
    depth = int(re.search(r'_r(\d+)', path.stem)[1])
    assert config.model.backbone.depth == depth
    assert config.model.neck.in_channels == (512 if depth == 18 else 2048)
    assert config.model.backbone.type == ('mmdet_detr.ResNetDC5' if 'dc5' in path.stem else 'ResNet')
    assert f'resnet{depth}' in Config.fromfile(path).model.backbone.init_cfg.checkpoint


@pytest.mark.parametrize('path', [p for p in COCO if '_25e_' in p.stem], ids=lambda path: path.stem)
def test_masks_train_on_frozen_boxes_and_are_evaluated(path):
    config = load(path)
    assert config.model.freeze_detector
    model = MODELS.build(config.model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1_333_657
    panoptic = 'panoptic' in path.stem
    things = 80 if panoptic else None
    assert config.model.mask_head.num_things_classes == things
    evaluators = config.test_evaluator if panoptic else [config.test_evaluator]
    assert [e.type for e in evaluators] == [
        *(['mmdet_detr.PanopticMetric'] if panoptic else []),
        'mmdet_detr.CocoMetric',
    ]
    assert evaluators[-1].metric == ['bbox', 'segm']
    loads = [t.type for t in config.train_dataloader.dataset.pipeline]
    assert loads[1] == ('mmdet_detr.LoadPanopticSegments' if panoptic else 'LoadAnnotations')


@pytest.mark.parametrize(('epochs', 'drop'), [(12, 11), (50, 40)])
def test_fast_recipe_differs_in_parts_and_schedule(epochs, drop):
    fast = load(ROOT / 'configs' / 'detr' / f'detr_r50_fast_8x2_{epochs}e_coco.py')
    paper = load(ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py')
    assert fast.train_cfg.max_epochs == fast.param_scheduler[0].end == epochs
    assert fast.param_scheduler[0].milestones == [drop]
    queries, denoising = fast.model.bbox_head.pop('training_queries')
    assert (queries.type, denoising.type) == ('mmdet_detr.QueryGroups', 'mmdet_detr.DenoisingQueries')
    assert fast.model.bbox_head.pop('dense_supervision').type == 'mmdet_detr.DenseSupervision'
    for key in ('model', 'train_dataloader', 'test_dataloader', 'optim_wrapper', 'custom_hooks'):
        assert fast[key] == paper[key], key


@pytest.mark.parametrize('name', ['detr_tiny_shapes', 'detr_r18_bccd'])
def test_small_configs_predict_as_those_of_the_paper(name):
    """The network is the same: only training differs."""
    fast, paper = (Config.fromfile(ROOT / 'configs' / 'detr' / f'{stem}.py') for stem in (name, f'{name}_plain'))
    for queries in fast.model.bbox_head.training_queries:
        if queries.type == 'mmdet_detr.QueryGroups':
            assert queries.num_queries == fast.model.neck.num_queries
    for key in ('training_queries', 'dense_supervision', 'loss'):
        fast.model.bbox_head.pop(key)
    for key in ('model', 'test_dataloader', 'test_evaluator'):
        assert fast[key] == paper[key], key


def test_learning_rates():
    config = load(ROOT / 'configs/detr/detr_r50_8x2_150e_coco.py')
    model = MODELS.build(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    seen = set()
    for group in optimizer.param_groups:
        assert group['weight_decay'] == 1e-4
        for name in (names[id(parameter)] for parameter in group['params']):
            assert group['lr'] == pytest.approx(1e-5 if name.startswith('backbone') else 1e-4), name
            seen.add(name)
    assert seen == set(names.values())


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry['Name'])
def test_metafile_entry(entry):
    """mim asks for lowercase names and for weights in every entry."""
    path = ROOT / entry['Config']
    assert path.is_file()
    assert entry['Name'] == path.stem == path.stem.lower()
    assert entry['In Collection'] in {c['Name'] for metafile in METAFILES for c in metafile['Collections']}
    assert re.fullmatch(r'https://.+-[0-9a-f]{8}\.pth', entry['Weights'])
    assert entry['Metadata']['Epochs'] == load(path).train_cfg.max_epochs


def test_published_results():
    published = {entry['Name']: entry['Results'][0]['Metrics']['box AP'] for entry in ENTRIES}
    assert published == {
        'detr_r50_8x2_500e_coco': 42.0,
        'detr_r50-dc5_8x1_500e_coco': 43.3,
        'detr_r101_8x2_500e_coco': 43.5,
        'detr_r101-dc5_8x1_500e_coco': 44.9,
        'detr_r50_8x2_150e_coco': 40.1,
        'detr_r50_panoptic_8x2_25e_coco': 38.8,
        'detr_r50-dc5_panoptic_8x1_25e_coco': 40.2,
        'detr_r101_panoptic_8x2_25e_coco': 40.1,
    }
    metrics = {entry['Name']: {k: v for r in entry['Results'] for k, v in r['Metrics'].items()} for entry in ENTRIES}
    assert metrics['detr_r50_panoptic_8x2_25e_coco'] == {'box AP': 38.8, 'mask AP': 31.1, 'PQ': 43.4}
    assert metrics['detr_r50-dc5_panoptic_8x1_25e_coco'] == {'box AP': 40.2, 'mask AP': 31.9, 'PQ': 44.6}
    assert metrics['detr_r101_panoptic_8x2_25e_coco'] == {'box AP': 40.1, 'mask AP': 33.0, 'PQ': 45.1}


def test_finetuning_takes_class_names_from_the_annotation_file(own_data):
    """In the file's order, by which mmdet numbers them."""
    config = load(ROOT / 'configs/detr/detr_r50_finetune.py')
    assert config.model.bbox_head.num_classes == 3
    for loader, file in (
        (config.train_dataloader, 'train.json'),
        (config.val_dataloader, 'val.json'),
        (config.test_dataloader, 'val.json'),
    ):
        assert loader.dataset.metainfo.classes == ('dog', 'cat', 'gnu')
        assert (loader.dataset.data_root, loader.dataset.ann_file) == (f'{own_data}/', file)
        assert loader.dataset.data_prefix.img == 'images/'
    assert config.val_evaluator.ann_file == config.test_evaluator.ann_file == f'{own_data}/val.json'
    assert config.auto_scale_lr == {'enable': True, 'base_batch_size': 16}
    assert config.model.backbone.get('init_cfg') is None  # nothing is downloaded


def test_finetuning_on_files_elsewhere(own_data, monkeypatch):
    (own_data / 'train.json').rename(own_data / 'a.json')
    monkeypatch.setenv('TRAIN_JSON', 'a.json')
    monkeypatch.setenv('TRAIN_IMAGES', 'photos/')
    dataset = load(ROOT / 'configs/detr/detr_r50_finetune.py').train_dataloader.dataset
    assert (dataset.ann_file, dataset.data_prefix.img) == ('a.json', 'photos/')


def test_finetuning_refuses_files_of_different_classes(own_data):
    (own_data / 'val.json').write_text(json.dumps({'categories': [{'id': 3, 'name': 'cat'}, {'id': 7, 'name': 'dog'}]}))
    with pytest.raises(ValueError, match='have to list the same categories'):
        load(ROOT / 'configs/detr/detr_r50_finetune.py')


def test_finetuning_with_a_frozen_backbone(own_data):
    config = load(ROOT / 'configs/detr/detr_r50_finetune_frozen-backbone.py')
    trained = {name.split('.')[0] for name, p in MODELS.build(config.model).named_parameters() if p.requires_grad}
    assert trained == {'neck', 'bbox_head'}


FASTER_RCNN = sorted((ROOT / 'configs' / 'faster_rcnn').glob('*.py'))


@pytest.mark.parametrize('path', FASTER_RCNN, ids=lambda path: path.stem)
def test_baselines_of_table_1(path):
    config = Config.fromfile(path)
    assert config.model.type == 'FasterRCNN'
    assert '_delete_' not in config.model
    dataset = config.train_dataloader.dataset
    epochs = config.train_cfg.get('max_epochs', 0) * dataset.get('times', 1)
    schedule = config.param_scheduler[-1]
    augmentation = str(dataset.get('dataset', dataset).pipeline)
    if 'plus' in path.stem:
        assert epochs == 109
        assert config.model.roi_head.bbox_head.loss_bbox.type == 'GIoULoss'
        assert config.model.roi_head.bbox_head.reg_decoded_bbox
        ours = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py').train_pipeline
        assert dataset.pipeline[2:] == ours[2:]  # after what loads
    elif 'coco' in path.stem:
        assert epochs == 36
        assert 'RandomResize' in augmentation or 'RandomChoiceResize' in augmentation
    if 'coco' in path.stem:
        assert schedule.end == config.train_cfg.max_epochs  # else the learning rate would never drop
        assert max(schedule.milestones) < schedule.end


@pytest.mark.parametrize(
    ('name', 'detr'),
    [('faster-rcnn_tiny_shapes', 'detr_tiny_shapes_plain'), ('faster-rcnn_r18_bccd', 'detr_r18_bccd_plain')],
)
def test_small_baselines_have_backbone_data_and_budget_of_ours(name, detr):
    theirs = Config.fromfile(ROOT / 'configs' / 'faster_rcnn' / f'{name}.py')
    ours = Config.fromfile(ROOT / 'configs' / 'detr' / f'{detr}.py')
    for config in (theirs, ours):
        config.model.backbone.pop('out_indices')
    assert theirs.model.backbone == ours.model.backbone
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'val_evaluator'):
        assert theirs[key] == ours[key], key


@pytest.mark.operators
@pytest.mark.parametrize('path', FASTER_RCNN, ids=lambda path: path.stem)
def test_baselines_build(path):
    model = MODELS.build(load(path).model)
    assert sum(p.numel() for p in model.parameters()) > 1e6
