"""Make the tables and pictures of the speed reports again, from their JSON files.

    python benchmarks/tables.py [benchmarks/results/speed_*.json]

A report is the benchmark.json of ``mim run mmdet_detr benchmark``. For NAME.json there are NAME.md with everything,
NAME_summary.md with one line a detector, and NAME_stages.png and NAME_memory.png.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from mmdet_detr.reports.speed import draw, markdown, table

RESULTS = Path(__file__).parent / 'results'
MODES = {'infer': 'inference', 'train': 'training'}


def summary(results: dict[str, Any], mode: str) -> str:
    """One line a detector: images a second in every case, and how many times those of the first."""
    rows = [row for row in results['rows'] if row['mode'] == mode]
    cases = list(dict.fromkeys((*row['size'], row['batch']) for row in rows))
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        speed, ratio = row['images_a_second'][0], (row['times_first'] or [None])[0]
        cell = f'{speed:.2f}' if ratio is None else f'{speed:.2f} ({ratio:.2f})'
        lines.setdefault((row['detector'], row['dtype']), [''] * len(cases))
        lines[row['detector'], row['dtype']][cases.index((*row['size'], row['batch']))] = cell
    head = ('detector', 'type', *(f'{h} x {w}, batch {batch}' for h, w, batch in cases))
    body = table(head, [[*name, *cells] for name, cells in lines.items()])
    return f'Images a second in {MODES[mode]} (times the first):\n\n{body}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('reports', nargs='*', type=Path, default=sorted(RESULTS.glob('speed_*.json')))
    for path in parser.parse_args().reports:
        results = json.loads(path.read_text())
        path.with_suffix('.md').write_text(markdown(results))
        modes = [mode for mode in MODES if any(row['mode'] == mode for row in results['rows'])]
        path.with_name(f'{path.stem}_summary.md').write_text('\n'.join(summary(results, mode) for mode in modes))
        with tempfile.TemporaryDirectory() as folder:
            for picture in draw(results, Path(folder)):
                path.with_name(f'{path.stem}_{picture.name}').write_bytes(picture.read_bytes())
        print(f'{path}: tables and pictures made')


if __name__ == '__main__':
    main()
