"""Estimate what training takes on 1 to 64 GPUs, on COCO and on ten million images, from figures of one machine.

    python benchmarks/plan.py [--rate 8.6] [--link 12.5] [--out benchmarks/results]

Measures how many images a core decodes and augments, and what it costs to read an annotation file; counts the bytes of
gradients. The rate of a GPU is the paper's: 300 epochs took 3 days on 16 V100. Writes plan.json and plan.md. The
assumptions are options.
"""

import argparse
import json
import multiprocessing
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from rich.progress import track

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.reports.speed import table
from mmdet_detr.speed.inputs import Inputs
from mmdet_detr.speed.machine import machine
from mmdet_detr.speed.memory import reset_peak, status_mib

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'
GPUS = (1, 8, 16, 32, 64)
DATA_SETS = {'COCO': 118_287, '10 million': 10_000_000}
OBJECTS = 7  # an image, as in COCO
IMAGE_KB = 163  # COCO train2017 has 19.3 GB
EPOCHS = 150
PARTS = 100  # an annotation file can be split into as many files, which are read one after the other
PUBLISHED_RATE = 300 * 118_287 / (3 * 86_400 * 16)
SIZES = (4_000, 16_000)  # images in annotation files; the cost of an image is the slope


def decode_rate(images: Path | None, count: int) -> float:
    """Images a second that one core reads, augments and packs for training."""
    pipeline = Compose(Config.fromfile(CONFIG).train_pipeline)
    inputs = Inputs((480, 640), 8, OBJECTS, 80, images)
    start = time.process_time()
    for i in track(range(count), description='decoding'):
        pipeline(inputs.info(i))
    return count / (time.process_time() - start)


def write_annotations(path: Path, images: int) -> None:
    """An annotation file with COCO's objects an image, each with a polygon of ten points."""
    random = np.random.default_rng(0)
    document: dict[str, list] = {'images': [], 'annotations': [], 'categories': [{'id': 1, 'name': 'thing'}]}
    for i in range(images):
        document['images'].append({'id': i, 'file_name': f'{i:012}.jpg', 'width': 640, 'height': 480})
        for _ in range(OBJECTS):
            x, y, w, h = random.integers(1, 200, 4).tolist()
            polygon = (np.tile([x, y], 10) + random.uniform(0, 100, 20)).round(2).tolist()
            annotation = {'id': len(document['annotations']), 'image_id': i, 'category_id': 1, 'iscrowd': 0}
            document['annotations'].append(
                {**annotation, 'bbox': [x, y, w, h], 'area': w * h, 'segmentation': [polygon]}
            )
    path.write_text(json.dumps(document))


def read_annotations(path: Path) -> dict[str, float]:
    """Seconds, bytes at the peak and bytes kept. Has to run in a process of its own."""
    init_default_scope('mmdet')
    before = reset_peak()
    start = time.process_time()
    data_set = DATASETS.build(
        {
            'type': 'mmdet_detr.RobustCocoDataset',
            'ann_file': str(path),
            'data_prefix': {'img': ''},
            'metainfo': {'classes': ('thing',)},
            'pipeline': [],
        }
    )
    seconds = time.process_time() - start
    peak = (status_mib('VmHWM') - before) * 2**20
    return {'seconds': seconds, 'peak': peak, 'kept': data_set.data_bytes.nbytes + data_set.data_address.nbytes}


def annotation_cost() -> dict[str, float]:
    """What one more image in an annotation file costs: seconds, bytes at the peak, bytes kept, bytes of the file."""
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for size in track(SIZES, description='annotation files'):
            path = Path(folder) / f'{size}.json'
            write_annotations(path, size)
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                costs.append({**pool.apply(read_annotations, (path,)), 'file': float(path.stat().st_size)})
    small, large = costs
    return {name: (large[name] - small[name]) / (SIZES[1] - SIZES[0]) for name in small}


def gradient_bytes() -> int:
    """Bytes that ranks exchange in a step."""
    config = Config.fromfile(CONFIG)
    config.model.backbone.init_cfg = None
    return 4 * sum(p.numel() for p in MODELS.build(config.model).parameters() if p.requires_grad)


def plan(measured: dict[str, Any], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every data set and number of GPUs."""
    rows = []
    cost = measured['annotations']
    for name, images in DATA_SETS.items():
        for gpus in GPUS:
            on_node = min(gpus, arguments.gpus_per_node)
            link = arguments.inner_link if gpus <= arguments.gpus_per_node else arguments.link
            seconds = images / (gpus * arguments.rate)
            rows.append(
                {
                    'images': name,
                    'GPUs': gpus,
                    'batch': gpus * arguments.batch,
                    'step s': arguments.batch / arguments.rate,
                    'exchange ms': 2000 * (gpus - 1) / gpus * measured['gradients'] / (link * 1e9),
                    'cores a node': on_node * arguments.rate / measured['images a second and core'],
                    'MB/s a node': on_node * arguments.rate * IMAGE_KB / 1000,
                    'epoch h': seconds / 3600,
                    f'{EPOCHS} epochs, days': EPOCHS * seconds / 86_400,
                    'images GB': images * IMAGE_KB / 1e6,
                    'annotations GB': images * cost['file'] / 1e9,
                    'start min': images * cost['seconds'] / 60,
                    'RAM GB a node': on_node * images * cost['peak'] / 1e9,
                    f'in {PARTS} parts': on_node * images * (cost['kept'] + cost['peak'] / PARTS) / 1e9,
                }
            )
    return rows


def shown(rows: list[dict[str, Any]], heads: dict[str, str]) -> str:
    return table(list(heads), [[format(row[head], heads[head]) for head in heads] for row in rows]).rstrip()


def markdown(results: dict[str, Any]) -> str:
    rows, measured = results['rows'], results['measured']
    cost = measured['annotations']
    step = {'GPUs': '', 'batch': '', 'step s': '.2f', 'exchange ms': '.1f', 'cores a node': '.1f', 'MB/s a node': '.1f'}
    data = {'images': '', 'GPUs': '', 'epoch h': '.2f', f'{EPOCHS} epochs, days': '.1f', 'annotations GB': '.1f'}
    data |= {'start min': '.1f'} | {'RAM GB a node': '.1f', f'in {PARTS} parts': '.1f'}
    return '\n\n'.join(
        [
            shown(rows[: len(GPUS)], step),
            shown(rows, data),
            f'Measured: a core decodes and augments {measured["images a second and core"]:.1f} images a second. An '
            f'image with {OBJECTS} objects takes {cost["file"] / 1000:.1f} kB in the annotation file, of every rank '
            f'that reads it {cost["seconds"] * 1e6:.0f} µs, {cost["peak"] / 1000:.1f} kB of memory at the peak and '
            f'{cost["kept"] / 1000:.1f} kB for good. Gradients are {measured["gradients"] / 1e6:.0f} MB. Assumed: '
            f'{results["rate"]:.1f} images a second and GPU in batches of {results["batch"]}, '
            f'{results["gpus_per_node"]} GPUs a node, {results["inner_link"]:g} GB/s among them, '
            f'{results["link"]:g} GB/s between nodes, images of {IMAGE_KB} kB.',
            f'`{results["command"]}`, {results["machine"]}.\n',
        ]
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rate', type=float, default=PUBLISHED_RATE, help='images a second that a GPU trains on')
    parser.add_argument('--batch', type=int, default=2, help='images of each GPU in a batch')
    parser.add_argument('--gpus-per-node', type=int, default=8)
    parser.add_argument('--inner-link', type=float, default=100.0, help='GB/s among the GPUs of a node')
    parser.add_argument('--link', type=float, default=12.5, help='GB/s between nodes')
    parser.add_argument('--images', type=Path, help='folder of images to decode (default: generated ones)')
    parser.add_argument('--decoded', type=int, default=200, help='number of images to decode')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    init_default_scope('mmdet')
    torch.set_num_threads(1)
    measured = {
        'images a second and core': decode_rate(arguments.images, arguments.decoded),
        'annotations': annotation_cost(),
        'gradients': gradient_bytes(),
    }
    results = {
        'command': shlex.join(['python', 'benchmarks/plan.py', *sys.argv[1:]]),
        'machine': machine('cpu'),
        **{name: getattr(arguments, name) for name in ('rate', 'batch', 'gpus_per_node', 'inner_link', 'link')},
        'measured': measured,
        'rows': plan(measured, arguments),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'plan.json').write_text(json.dumps(results, indent=1) + '\n')
    (arguments.out / 'plan.md').write_text(markdown(results))
    print(markdown(results))


if __name__ == '__main__':
    main()
