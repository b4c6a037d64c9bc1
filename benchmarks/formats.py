"""What number formats cost and give: AP of exported files on real runs, and the speed of R50 in each format.

    python benchmarks/formats.py ap NAME:CONFIG:IMAGES:CHECKPOINT ... (IMAGES: the folder that int8 is scaled by)
    python benchmarks/formats.py speed [--rounds 10] [--size 480x640 800x1066] [--threads 2]

AP is not rounded to thousandths, as mmdet's is: pycocotools evaluates the detections. Besides what ``export`` writes,
it has int8 for every operator that ONNX Runtime can quantise, and for all convolutions, and the model itself in
bfloat16. R50 has random weights, and statistics of batch norms that fit them. Writes formats_ap.json and .md,
formats_cpu.json, .md and _stages.png.
"""

import argparse
import functools
import io
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.progress import track
from training import ROOT, arguments_shown

from mmdet_detr.export import export, int8
from mmdet_detr.reports.speed import table
from mmdet_detr.speed.inputs import Inputs
from mmdet_detr.speed.machine import machine

R50 = ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'
OF_MMDET = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
EVERY_OPERATOR = ('Conv', 'MatMul', 'Gemm', 'Add', 'Mul', 'Relu', 'Softmax', 'Concat', 'Sigmoid')
FILES: dict[str, dict] = {  # name: suffix, options of export, and the nodes in int8
    'ONNX float32': {'suffix': '.onnx'},
    'OpenVINO float32': {'suffix': '.xml'},
    'OpenVINO bfloat16': {'suffix': '.xml', 'bf16': True},
    'ONNX int8': {'suffix': '.onnx', 'int8': True},
    'OpenVINO int8': {'suffix': '.xml', 'int8': True},
    'ONNX int8, all convolutions': {'suffix': '.onnx', 'int8': True, 'chosen': lambda kind, name: kind == 'Conv'},
    'ONNX int8, matrix products too': {
        'suffix': '.onnx',
        'int8': True,
        'chosen': lambda kind, name: kind in ('Conv', 'MatMul', 'Gemm'),
    },
    'ONNX int8, every operator': {
        'suffix': '.onnx',
        'int8': True,
        'chosen': lambda kind, name: kind in EVERY_OPERATOR,
    },
}
IN_SPEED = tuple(FILES)[:5]


def write(name: str, config: Path, checkpoint: str, images: Path, folder: Path) -> Path:
    """Export a model in a format of the table."""
    options = dict(FILES[name])
    path = folder / f'{name.replace(" ", "_").replace(",", "")}{options.pop("suffix")}'
    int8_images = images if options.pop('int8', False) else None
    original = int8.quantise
    try:
        int8.quantise = functools.partial(original, chosen=options.pop('chosen', int8.in_backbone))
        export(config, checkpoint, path, int8_images=int8_images, checked=False, force=True, **options)
    finally:
        int8.quantise = original
    return path


def average_precision(config: Config, checkpoint: str | None) -> float:
    """COCO's AP on the config's validation data, not rounded."""
    MMLogger._instance_dict.clear()  # an existing logger would write to the folder of an earlier run
    config.load_from = checkpoint
    config.visualizer = None
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        config.work_dir = folder
        config.experiment_name = f'formats_{Path(folder).name}'
        config.test_evaluator.outfile_prefix = f'{folder}/found'
        Runner.from_cfg(config).test()
        truth = COCO(config.test_evaluator.ann_file)
        evaluation = COCOeval(truth, truth.loadRes(f'{folder}/found.bbox.json'), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def all_ap(run: str) -> Iterator[tuple[str, str, str, float]]:
    """Name of the run, checkpoint, name of the format, and AP."""
    name, path, images, *checkpoints = run.split(':')
    for checkpoint in checkpoints:
        with tempfile.TemporaryDirectory() as folder:
            for kind in ('PyTorch float32', 'PyTorch bfloat16', *FILES):
                config = Config.fromfile(path)
                weights: str | None = checkpoint
                if kind == 'PyTorch bfloat16':
                    config.model.predict_dtype = 'bfloat16'
                elif kind in FILES:
                    file = write(kind, Path(path), checkpoint, Path(images), Path(folder))
                    config.model = {'type': 'mmdet_detr.ExportedDetector', 'path': str(file)}
                    weights = None
                yield name, Path(checkpoint).stem, kind, average_precision(config, weights)


def ap_table(results: dict) -> str:
    """Rows are formats, columns are checkpoints; AP, and the difference to float32 in points."""
    columns = list(dict.fromkeys((row['run'], row['checkpoint']) for row in results['rows']))
    found = {(row['run'], row['checkpoint'], row['format']): row['AP'] for row in results['rows']}
    lines = []
    for kind in dict.fromkeys(row['format'] for row in results['rows']):
        cells = []
        for column in columns:
            ap, first = found[(*column, kind)], found[(*column, 'PyTorch float32')]
            cells.append(f'{ap:.4f}' + ('' if kind == 'PyTorch float32' else f' ({100 * (ap - first):+.2f})'))
        lines.append([kind, *cells])
    numbers = {run: 0 for run, _ in columns}
    heads = []
    for run, _ in columns:
        numbers[run] += 1
        heads.append(f'{run}, run {numbers[run]}')
    note = 'AP, and in brackets the difference to PyTorch float32 in points (hundredths of AP).'
    return f'{table(("format", *heads), lines)}\n`{results["command"]}`, {results["machine"]}. {note}\n'


def r50_checkpoint(path: Path) -> None:
    """Random weights; batch norms get the statistics of their inputs, so that activations have a usual size."""
    torch.manual_seed(0)
    init_default_scope('mmdet')
    config = Config.fromfile(R50)
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model).eval()
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1)
        norm.train().momentum = None
    with torch.no_grad():
        model.backbone(torch.nn.functional.interpolate(torch.randn(2, 3, 20, 26), (320, 416), mode='bicubic'))
    torch.save({'state_dict': model.state_dict()}, path)


def speed(arguments: argparse.Namespace) -> None:
    """Tables and pictures of the command ``benchmark`` for all formats."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        r50_checkpoint(folder / 'r50.pth')
        pictures = Inputs((480, 640), 8, 1, 80)  # writes files to calibrate int8 by
        images = Path(pictures.info(0)['img_path']).parent
        files = [
            write(kind, R50, str(folder / 'r50.pth'), images, folder)
            for kind in track(IN_SPEED, 'exporting', transient=True)
        ]
        options = ['--mode', 'infer', '--rounds', arguments.rounds, '--size', *arguments.size, '--no-memory']
        options += ['--threads', arguments.threads, '--out', folder / 'out']
        command = [sys.executable, '-m', 'mmdet_detr', 'benchmark', OF_MMDET, R50, *files, *options]
        subprocess.run(list(map(str, command)), check=True)
        results = json.loads((folder / 'out' / 'benchmark.json').read_text())
        text = (folder / 'out' / 'benchmark.md').read_text().replace(results['command'], arguments.command)
        results['command'] = arguments.command
        (arguments.out / 'formats_cpu.json').write_text(json.dumps(results, indent=1) + '\n')
        (arguments.out / 'formats_cpu.md').write_text(text)
        shutil.copyfile(folder / 'out' / 'stages.png', arguments.out / 'formats_cpu_stages.png')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parts = parser.add_subparsers(required=True, dest='part')
    of_ap = parts.add_parser('ap', help='AP of every format')
    of_ap.add_argument('runs', nargs='+', metavar='NAME:CONFIG:IMAGES:CHECKPOINT[:CHECKPOINT...]')
    of_speed = parts.add_parser('speed', help='images a second of R50 in every format')
    of_speed.add_argument('--rounds', type=int, default=10, help='(default: 10)')
    of_speed.add_argument('--size', nargs='+', default=['480x640', '800x1066'], help='(default: 480x640 800x1066)')
    of_speed.add_argument('--threads', type=int, default=2, help='(default: 2)')
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    arguments.command = f'python benchmarks/formats.py {arguments_shown(sys.argv[1:])}'
    if arguments.part == 'speed':
        speed(arguments)
        return
    results = {'command': arguments.command, 'machine': machine('cpu'), 'rows': []}
    for run in arguments.runs:
        for name, checkpoint, kind, ap in all_ap(run):
            print(f'{name} {checkpoint} {kind}: {ap:.4f}', flush=True)
            results['rows'].append({'run': name, 'checkpoint': checkpoint, 'format': kind, 'AP': ap})
            (arguments.out / 'formats_ap.json').write_text(json.dumps(results, indent=1) + '\n')
    (arguments.out / 'formats_ap.md').write_text(ap_table(results))


if __name__ == '__main__':
    main()
