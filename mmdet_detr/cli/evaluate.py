"""Work of ``mim run mmdet_detr evaluate``."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..evaluation.page import write_page
from .fail import errors_in_one_line

WEAKEST = 10  # classes in the table


def main(args: argparse.Namespace) -> None:
    """Write the page and print its main numbers."""
    warnings.simplefilter('ignore')
    run = args.run
    out = args.out or (run / 'evaluation' if run.is_dir() else Path('evaluation'))
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    with errors_in_one_line('evaluate'):
        numbers = write_page(run, out, args.checkpoint, device, args.max_images)
    Console(highlight=False, markup=False).print(_table(numbers))
    print(f'the page: {out / "index.html"}')


def _table(numbers: dict[str, Any]) -> Table:
    """All classes together, and those with the lowest AP."""
    known = sorted((entry for entry in numbers['classes'] if entry['objects']), key=lambda entry: entry['AP'])
    rest = f', the {WEAKEST} weakest of {len(known)} classes' if len(known) > WEAKEST else ''
    table = Table(title=f'{numbers["images"]} images{rest}', title_justify='left')
    table.add_column('')
    for head in ('objects', 'AP', 'AP50', 'score from', 'precision', 'recall'):
        table.add_column(head, justify='right')
    for entry in [{**numbers, 'name': 'all'}, *known[:WEAKEST]]:
        best = entry['best_f1']
        values = [f'{best[key]:.2f}' if best else '-' for key in ('threshold', 'precision', 'recall')]
        table.add_row(entry['name'], str(entry['objects']), f'{entry["AP"]:.3f}', f'{entry["AP50"]:.3f}', *values)
    return table
