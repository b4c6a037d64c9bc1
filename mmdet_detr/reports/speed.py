"""Tables and pictures of what was measured."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use('Agg')
from matplotlib import pyplot as plt

Row = dict[str, Any]
COLUMNS = {
    'infer': ('model ms', 'model images/s', 'x first', 'from file to boxes ms', 'images/s', 'MiB', 'GFLOPs', 'M'),
    'train': ('step ms', 'images/s', 'x first', 'data', 'forward', 'loss', 'backward', 'optimizer', 'MiB', 'M'),
}


def markdown(results: dict[str, Any]) -> str:
    """One table for each size, batch and mode."""
    text = []
    for (height, width, batch, mode), rows in grouped(results['rows']).items():
        title = {'infer': 'Inference', 'train': 'Training'}[mode]
        text.append(f'**{title}, {height} x {width}, batch {batch}**\n')
        text.append(table(('detector', 'type', *COLUMNS[mode]), [cells(row) for row in rows]))
    if results.get('ap'):
        names = list(next(iter(results['ap'].values())))
        lines = [[detector, *(number(ap.get(name), 3) for name in names)] for detector, ap in results['ap'].items()]
        text.append('**Accuracy**\n\n' + table(('detector', *names), lines) + '\n')
    text.append(
        f'`{results["command"]}`, {results["machine"]}; {results["rounds"]} rounds in turns, median (quartiles); x '
        'first: images/s over those of the first detector, round by round. Model: from the batch to detections; from '
        'file to boxes: with decoding, resizing and transfer. Stages of training in ms. GFLOPs: multiply-adds, in '
        f'billions; M: parameters, in millions.{" " + results["note"] if "note" in results else ""}\n'
    )
    return '\n'.join(text)


def grouped(rows: list[Row]) -> dict[tuple[int, int, int, str], list[Row]]:
    groups: dict[tuple[int, int, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((*row['size'], row['batch'], row['mode']), []).append(row)
    return groups


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def cells(row: Row) -> list[str]:
    stages = {name: milliseconds(values) for name, values in row['stages'].items()}
    memory = number(row.get('memory_mib'), 0)
    parameters = f'{row["parameters"] / 1e6:.1f}'
    speed = spread(row['images_a_second'], 2)
    ratio = spread(row['times_first'], 2) if row['times_first'] else ''
    name = [row['detector'], row['dtype']]
    if row['mode'] == 'train':
        return [*name, milliseconds(row['total']), speed, ratio, *stages.values(), memory, parameters]
    in_all = spread(row['images_a_second_in_all'], 2)
    gflops = '' if row.get('gflops') is None else f'{row["gflops"]:.3g}'
    return [*name, stages['model'], speed, ratio, milliseconds(row['total']), in_all, memory, gflops, parameters]


def milliseconds(values: list[float]) -> str:
    return spread([1000 * value for value in values], 0 if values[0] >= 0.1 else 1)


def spread(values: list[float], digits: int) -> str:
    median, lower, upper = (f'{value:.{digits}f}' for value in values)
    return median if lower == upper else f'{median} ({lower} to {upper})'


def number(value: float | None, digits: int) -> str:
    return '' if value is None else f'{value:.{digits}f}'


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Bars of the stages and of the memory, and speed against AP where that is known; the files written."""
    paths = [folder / 'stages.png']
    _draw_stages(results['rows'], paths[0])
    if any(row.get('memory_mib') for row in results['rows']):
        paths.append(folder / 'memory.png')
        _draw_memory(results['rows'], paths[-1])
    if results.get('ap') and any(row['mode'] == 'infer' for row in results['rows']):
        paths.append(folder / 'speed.png')
        _draw_speed(results, paths[-1])
    return paths


def _label(row: Row) -> str:
    return row['detector'] + ('' if row['dtype'] == 'float32' else f', {row["dtype"]}')


def _panels(rows: list[Row]) -> tuple[Any, list[tuple[Any, str, list[Row]]]]:
    groups = grouped(rows)
    height = sum(0.9 + 0.3 * len(group) for group in groups.values())
    ratios = [0.9 + 0.3 * len(group) for group in groups.values()]
    figure, axes = plt.subplots(
        len(groups), figsize=(9, height), layout='constrained', squeeze=False, gridspec_kw={'height_ratios': ratios}
    )
    titles = [f'{mode}, {h} x {w}, batch {batch}' for h, w, batch, mode in groups]
    return figure, list(zip(axes[:, 0], titles, groups.values(), strict=True))


def _draw_stages(rows: list[Row], path: Path) -> None:
    figure, panels = _panels(rows)
    for axis, title, group in panels:
        left = [0.0] * len(group)
        for stage in group[0]['stages']:
            widths = [1000 * row['stages'][stage][0] for row in group]
            axis.barh([_label(row) for row in group], widths, left=left, label=stage)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set(title=title, xlabel='ms')
        axis.invert_yaxis()
        axis.legend(fontsize='small', loc='center left', bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_memory(rows: list[Row], path: Path) -> None:
    figure, panels = _panels(rows)
    for axis, title, group in panels:
        bars = axis.barh([_label(row) for row in group], [row.get('memory_mib') or 0 for row in group])
        axis.bar_label(bars, fmt='%.0f', padding=3)
        axis.set(title=title, xlabel='MiB at the peak')
        axis.margins(x=0.12)
        axis.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_speed(results: dict[str, Any], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.5), layout='constrained')
    size, batch = next((row['size'], row['batch']) for row in results['rows'] if row['mode'] == 'infer')
    for row in results['rows']:
        if row['mode'] == 'infer' and row['detector'] in results['ap'] and (row['size'], row['batch']) == (size, batch):
            x, y = row['images_a_second'][0], results['ap'][row['detector']].get('AP', 0.0)
            axis.scatter(x, y)
            axis.annotate(_label(row), (x, y), xytext=(5, 5), textcoords='offset points', fontsize='small')
    axis.set(xlabel=f'images a second, {size[0]} x {size[1]}, batch {batch}', ylabel='AP')
    axis.margins(0.2)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
