"""Train mmdet's detectors with their own head and with a DETR head instead, and compare their AP.

    .venv-ops/bin/python benchmarks/mixed.py --out benchmarks/results

Three detectors at tiny width on the generated shapes (make data/shapes/annotations/panoptic_val.json), with images,
iterations and optimizer of configs/detr/detr_tiny_shapes_plain.py for every head. Where a detector is called
pretrained, all its heads start from one backbone, which the original head has trained for PRETRAINING iterations
before. The original heads predict by NMS and so need mmcv's compiled operators (make ops). Writes mixed.json, mixed.md
and mixed.png, and keeps earlier rows of the same number of iterations; ``--draw`` makes mixed.md and mixed.png again
from mixed.json.
"""

import argparse
import copy
import importlib.util
import json
import platform
import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.runner import Runner
from rich.progress import Progress
from training import file_name, quietly, runner_of, spread

import mmdet_detr  # noqa: F401  (stands in for missing operators)

mpl.use('Agg')
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
SHAPES = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes_plain.py'
OWN, DETR, NO_NORM, AUXILIARY = HEADS = (
    'own head',
    'DETR head',
    'DETR head without input_norm',
    'own head + auxiliary DETR head',
)
PRETRAINING = 1000
NUM_CLASSES = 3
RESNET = {
    '_delete_': True,
    'type': 'ResNet',
    'depth': 18,
    'base_channels': 32,
    'num_stages': 3,
    'strides': (1, 2, 2),
    'dilations': (1, 1, 1),
    'out_indices': (0, 1, 2),
    'norm_cfg': {'type': 'BN'},
    'norm_eval': False,
    'zero_init_residual': False,
}
SWIN = {
    '_delete_': True,
    'type': 'SwinTransformer',
    'embed_dims': 32,
    'depths': (2, 2, 2),
    'num_heads': (2, 4, 8),
    'strides': (4, 2, 2),
    'window_size': 4,
    'drop_path_rate': 0.0,
    'out_indices': (0, 1, 2),
}
FPN = {'in_channels': [32, 64, 128], 'out_channels': 64, 'start_level': 0, 'num_outs': 3}
RETINA_HEAD = {
    'num_classes': NUM_CLASSES,
    'in_channels': 64,
    'stacked_convs': 2,
    'feat_channels': 64,
    'anchor_generator': {'octave_base_scale': 2, 'strides': [4, 8, 16]},
}
YOLOF_HEAD = {
    'num_classes': NUM_CLASSES,
    'in_channels': 64,
    'feat_channels': 64,
    'anchor_generator': {'scales': [1, 2, 4], 'strides': [8]},
}
# `tiny` shrinks mmdet's config, `for_detr` selects the features that a DETR head reads, `levels` are their indices
DETECTORS = {
    'RetinaNet, R18-FPN': {
        'config': 'retinanet/retinanet_r50_fpn_1x_coco.py',
        'tiny': {'backbone': RESNET, 'neck': FPN, 'bbox_head': RETINA_HEAD},
        'for_detr': {'neck': {'start_level': 1, 'num_outs': 2}},
        'levels': (0, 1),
    },
    'YOLOF, R18': {
        'config': 'yolof/yolof_r50-c5_8xb8-1x_coco.py',
        'tiny': {
            'backbone': {**RESNET, 'num_stages': 2, 'strides': (1, 2), 'dilations': (1, 1), 'out_indices': (1,)},
            'neck': {
                'in_channels': 64,
                'out_channels': 64,
                'block_mid_channels': 32,
                'num_residual_blocks': 2,
                'block_dilations': [1, 2],
            },
            'bbox_head': YOLOF_HEAD,
        },
        'for_detr': {},
        'levels': -1,
    },
    'RetinaNet, Swin-FPN': {
        'config': 'swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py',
        'tiny': {'backbone': SWIN, 'neck': FPN, 'bbox_head': RETINA_HEAD},
        'for_detr': {
            'backbone': {'out_indices': (1, 2)},
            'neck': {'in_channels': [64, 128], 'num_outs': 2},
        },
        'levels': (0, 1),
    },
}
DETECTORS['RetinaNet, Swin-FPN, pretrained'] = DETECTORS['RetinaNet, Swin-FPN']


def model_of(detector: str, head: str) -> ConfigDict:
    """The model of one row, from mmdet's config of the detector."""
    settings = copy.deepcopy(DETECTORS[detector])  # merging empties it of _delete_
    shapes = Config.fromfile(SHAPES).model
    config = Config({'model': get_config(f'mmdet::{settings["config"]}').model})
    preprocessor = {'_delete_': True, **shapes.data_preprocessor, 'pad_size_divisor': 32}
    config.merge_from_dict({'model': {'data_preprocessor': preprocessor, **settings['tiny']}})
    without_norm = config.model.neck.type == 'FPN'
    transformer = {**shapes.neck, 'levels': settings['levels'], 'input_norm': without_norm and head != NO_NORM}
    detr_head = {**shapes.bbox_head, 'transformer': transformer}
    if head == OWN:
        return config.model
    if head != AUXILIARY:
        replaced = {'bbox_head': {'_delete_': True, **detr_head}, 'test_cfg': {'_delete_': True, 'max_per_img': 10}}
        config.merge_from_dict({'model': {**settings['for_detr'], **replaced}})
        return config.model
    # A detector with its own head keeps all levels, and the auxiliary head reads the strides that a DETR head reads.
    stride_8 = 1 if len(settings['tiny']['backbone']['out_indices']) > 1 else 0
    levels = (stride_8, stride_8 + 1) if isinstance(settings['levels'], tuple) else settings['levels']
    aux_head = {**detr_head, 'transformer': {**transformer, 'levels': levels}, 'test_cfg': {'max_per_img': 10}}
    return ConfigDict(type='mmdet_detr.AuxiliaryHeadDetector', detector=config.model, aux_head=aux_head)


def train(detector: str, head: str, seed: int, arguments: argparse.Namespace, progress: Progress) -> dict:
    """Train and test one row; its log stays in the work folder."""
    model = model_of(detector, head)
    if detector.endswith('pretrained'):
        weights = pretrain(detector, seed, arguments, progress)
        backbone = model.detector.backbone if head == AUXILIARY else model.backbone
        backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': str(weights), 'prefix': 'backbone.'}
    runner = shapes_runner(f'{detector} {head} {seed}', model, seed, arguments.iterations, arguments, progress)
    start = time.perf_counter()
    model = quietly(runner.train)
    seconds = time.perf_counter() - start
    parts = {'own': 'detector', 'DETR': 'aux_head'} if head == AUXILIARY else {'own' if head == OWN else 'DETR': None}
    measured = {}
    for part, predict_by in parts.items():
        if predict_by:
            model.predict_by = predict_by
        measured[part] = quietly(runner.test)
    return {
        'detector': detector,
        'head': head,
        'seed': seed,
        'seconds': seconds,
        'parameters': sum(p.numel() for p in model.parameters()),
        'AP': {part: metrics['coco/bbox_mAP'] for part, metrics in measured.items()},
        'AP50': {part: metrics['coco/bbox_mAP_50'] for part, metrics in measured.items()},
    }


def pretrain(detector: str, seed: int, arguments: argparse.Namespace, progress: Progress) -> Path:
    """Weights of a detector whose own head has trained its backbone for a while; they replace those of ImageNet."""
    path = arguments.work_dir / f'{file_name(detector)}_{seed}.pth'
    if not path.exists():
        model = model_of(detector, OWN)
        runner = shapes_runner(f'{detector} pretraining {seed}', model, seed, PRETRAINING, arguments, progress)
        torch.save({'state_dict': quietly(runner.train).state_dict()}, path)
    return path


def shapes_runner(
    title: str, model: ConfigDict, seed: int, iterations: int, arguments: argparse.Namespace, progress: Progress
) -> Runner:
    """A runner of the shapes config with this model. It tests once, at the end."""
    config = Config.fromfile(SHAPES)
    config.model = model
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.data_root = str(arguments.data) + '/'
    config.test_evaluator.ann_file = f'{arguments.data}/annotations/instances_val.json'
    # Resize changes nothing here, but mmdet's heads need the scale_factor that it writes.
    config.test_dataloader.dataset.pipeline.insert(1, {'type': 'Resize', 'scale': (64, 64)})
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    task = progress.add_task(title, total=iterations)
    return runner_of(
        title, config, seed, iterations, arguments.work_dir, lambda done: progress.update(task, completed=done)
    )


def table(results: dict) -> str:
    """Markdown of the results."""
    lines = ['| detector | trained with | predicted by | AP | AP50 | minutes | parameters |', '|' + ' --- |' * 7]
    for (detector, head), rows in grouped(results).items():
        for part in rows[0]['AP']:
            ap, ap50 = ([row[metric][part] for row in rows] for metric in ('AP', 'AP50'))
            minutes = [row['seconds'] / 60 for row in rows]
            predicted_by = {'own': 'its own head', 'DETR': 'the DETR head'}[part]
            lines.append(
                f'| {detector} | {head} | {predicted_by} | {spread(ap, 3)} | {spread(ap50, 3)} | {spread(minutes, 1)} '
                f'| {rows[0]["parameters"] / 1e6:.2f} M |'
            )
    machine = results['machine']
    seeds = len({row['seed'] for row in results['rows']})
    return '\n'.join(lines) + (
        f'\n\n`{results["command"]}`, {machine["processor"]}, {machine["threads"]} thread(s), PyTorch '
        f'{machine["torch"]}. {results["iterations"]} iterations of 32 images of 64 x 64 pixels, from '
        f'random weights; where a row says pretrained, from a backbone that the original head has trained for '
        f'{PRETRAINING} iterations; {seeds} seed(s), mean and range.\n'
    )


def grouped(results: dict) -> dict[tuple[str, str], list[dict]]:
    rows: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(
        results['rows'], key=lambda row: (list(DETECTORS).index(row['detector']), HEADS.index(row['head']))
    ):
        rows.setdefault((row['detector'], row['head']), []).append(row)
    return rows


def draw(results: dict, path: Path) -> None:
    """Bars of AP, one group a detector."""
    bars: dict[str, dict[str, list[float]]] = {}
    for (detector, head), rows in grouped(results).items():
        for part in rows[0]['AP']:
            label = head if len(rows[0]['AP']) == 1 else f'{head}, by the {"DETR" if part == "DETR" else "own"} one'
            bars.setdefault(label, {})[detector] = [row['AP'][part] for row in rows]
    detectors = [name for name in DETECTORS if any(name in values for values in bars.values())]
    figure, axes = plt.subplots(figsize=(9, 4.5), layout='constrained')
    width = 0.8 / len(bars)
    for i, (label, values) in enumerate(bars.items()):
        places = [detectors.index(name) + (i - (len(bars) - 1) / 2) * width for name in values]
        heights = [sum(aps) / len(aps) for aps in values.values()]
        low = [mean - min(aps) for mean, aps in zip(heights, values.values(), strict=True)]
        high = [max(aps) - mean for mean, aps in zip(heights, values.values(), strict=True)]
        axes.bar(places, heights, width, yerr=(low, high) if any(low + high) else None, capsize=3, label=label)
    axes.set_xticks(range(len(detectors)), [name.replace(', ', '\n', 1) for name in detectors])
    axes.set_ylabel('AP on shapes')
    figure.legend(loc='outside lower center', ncols=3, fontsize='small')
    figure.savefig(path, dpi=120)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--data', type=Path, default=ROOT / 'data' / 'shapes', help='folder of the shapes')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'mixed', help='folder of the logs')
    parser.add_argument('--iterations', type=int, default=3800, help='training steps of every row')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='one run each')
    parser.add_argument('--detectors', nargs='+', choices=DETECTORS, default=list(DETECTORS), help='only these')
    parser.add_argument('--heads', nargs='+', choices=HEADS, default=[OWN, DETR], help='only these')
    parser.add_argument('--draw', action='store_true', help='only make table and picture from mixed.json again')
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    path = arguments.out / 'mixed.json'
    if not arguments.draw:
        if importlib.util.find_spec('mmcv._ext') is None and set(arguments.heads) - {DETR, NO_NORM}:
            sys.exit("mixed.py: the original heads need mmcv's compiled operators: make ops, then .venv-ops/bin/python")
        if not (arguments.data / 'annotations').is_dir():
            sys.exit(f'mixed.py: {arguments.data} has no shapes: mim run mmdet_detr make_shapes {arguments.data}')
        machine = {
            'processor': platform.machine(),
            'threads': torch.get_num_threads(),
            'torch': torch.__version__,
        }
        before = json.loads(path.read_text()) if path.exists() else {}
        kept = before['rows'] if before.get('iterations') == arguments.iterations else []
        results = {
            'command': '.venv-ops/bin/python benchmarks/mixed.py',
            'machine': machine,
            'iterations': arguments.iterations,
            'rows': kept,
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        with Progress() as progress:
            for seed in arguments.seeds:
                for detector in arguments.detectors:
                    for head in arguments.heads:
                        row = train(detector, head, seed, arguments, progress)
                        same = ('detector', 'head', 'seed')
                        results['rows'] = [r for r in results['rows'] if any(r[k] != row[k] for k in same)] + [row]
                        path.write_text(json.dumps(results, indent=1) + '\n')
    results = json.loads(path.read_text())
    (arguments.out / 'mixed.md').write_text(table(results))
    draw(results, arguments.out / 'mixed.png')
    print(table(results))


if __name__ == '__main__':
    main()
