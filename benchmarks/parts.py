"""Time and memory of DETR R50 in training, with each part for training only and without.

    python benchmarks/parts.py [--device cuda] [--size 800x1066] [--out benchmarks/results]

Writes a config for each row, and lets the benchmark command compare them in training, in turns; "Muon" shows the
optimizer. Makes parts_cpu.md or parts_cuda.md, with the full report in the JSON file beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from mmdet_detr.reports.speed import table

ROOT = Path(__file__).parents[1]
BASE = ROOT / 'configs' / 'detr' / 'detr_r50_fast_8x2_12e_coco.py'
PLAIN = ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'
MUON = (
    "optim_wrapper = dict(constructor='mmdet_detr.MuonConstructor', muon=dict(backbone=False),"
    " optimizer=dict(type='mmdet_detr.Muon'))"
)
# Name of the row: the lines that a config has beside its base.
ROWS = {
    'plain': (PLAIN, ''),
    'groups': (PLAIN, 'model = dict(bbox_head=dict(training_queries=fast.training_queries[:1]))'),
    'denoising': (PLAIN, 'model = dict(bbox_head=dict(training_queries=fast.training_queries[1:]))'),
    'dense': (PLAIN, 'model = dict(bbox_head=dict(dense_supervision=fast.dense_supervision))'),
    'all': (BASE, ''),
    'Muon': (PLAIN, MUON),
    'all, Muon': (BASE, MUON),
}


def write_configs(folder: Path) -> list[Path]:
    """One config a row, without weights to download."""
    paths = []
    for name, (base, lines) in ROWS.items():
        bases = [str(base), *([str(ROOT / 'configs' / '_base_' / 'detr_fast.py')] if 'fast.' in lines else [])]
        path = folder / f'{name}.py'
        fast = 'fast = _base_.fast_head\n' if 'fast.' in lines else ''
        path.write_text(f'_base_ = {bases}\n{fast}{lines}\n')
        paths.append(path)
    return paths


def markdown(results: dict, command: str) -> str:
    """Medians and quartiles of the whole step, and the peak of memory."""
    rows = results['rows']
    first = rows[0]
    lines = []
    for row in rows:
        ratio, low, high = (1 / value for value in row['times_first'])
        memory = row.get('memory_mib')
        lines.append(
            [
                row['detector'],
                f'{row["total"][0]:.2f}',
                f'{ratio:.2f} ({min(low, high):.2f} to {max(low, high):.2f})',
                '-' if not memory else f'{memory:.0f}',
                '-' if not memory else f'{memory / first["memory_mib"]:.2f}',
            ]
        )
    heads = ['parts', 'seconds a step', 'times plain', 'MiB', 'times plain']
    size, batch = first['size'], first['batch']
    note = f'DETR R50, {size[0]} x {size[1]}, batch {batch}, training; medians and quartiles of rounds in turns'
    return f'{table(heads, lines)}\n`{command}`, {results["machine"]}. {note}.\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--size', default='800x1066', help='HEIGHTxWIDTH (default: 800x1066)')
    parser.add_argument('--batch', default='2', help='images (default: 2)')
    parser.add_argument('--rounds', default='5', help='timed rounds (default: 5)')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    arguments = parser.parse_args()
    options = ['--device', arguments.device, '--size', arguments.size, '--batch', arguments.batch]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_configs(Path(folder))
        done = subprocess.run(
            [
                *(sys.executable, 'tools/benchmark.py', *paths, '--mode', 'train', '--warmup', '1'),
                *(*options, '--rounds', arguments.rounds, '--out', folder),
            ],
            cwd=ROOT,
        )
        if done.returncode:
            sys.exit(done.returncode)
        results = json.loads((Path(folder) / 'benchmark.json').read_text().replace(folder, 'CONFIGS'))
    path = arguments.out / f'parts_{arguments.device.split(":")[0]}.json'
    path.write_text(json.dumps(results, indent=1) + '\n')
    command = f'python benchmarks/parts.py {" ".join(options)} --rounds {arguments.rounds}'
    path.with_suffix('.md').write_text(markdown(results, command))
    print(path.with_suffix('.md').read_text())


if __name__ == '__main__':
    main()
