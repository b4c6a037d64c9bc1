"""Turns the results of a speed measurement into tables and pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, Any]
MODES = {'infer': 'Inference', 'train': 'Training'}
COLUMNS = {
    'infer': ('model ms', 'model images/s', 'x first', 'from file to boxes ms', 'images/s', 'MiB', 'GFLOPs', 'M'),
    'train': ('step ms', 'images/s', 'x first', 'data', 'forward', 'loss', 'backward', 'optimizer', 'MiB', 'M'),
}
STAGE_COLOURS = ('#7f7f7f', '#1f5f99', '#c25b00', '#2b7a2b', '#7d4fa3', '#8c3b3b')  # white text is readable on them
NUMBERED_SHARE = 0.07  # of the longest bar: a narrower stage has no room for its number


def markdown(results: dict[str, Any]) -> str:
    """Tables in Markdown: one for each size, batch and mode, and one for accuracy."""
    text = []
    for (height, width, batch, mode), rows in grouped(results['rows']).items():
        text.append(f'**{MODES[mode]}, {height} x {width}, batch {batch}**\n')
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
    """Rows by (height, width, batch, mode)."""
    groups: dict[tuple[int, int, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((*row['size'], row['batch'], row['mode']), []).append(row)
    return groups


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def cells(row: Row) -> list[str]:
    """The cells of a row: detector, type and the columns of its mode."""
    stages = {name: milliseconds(values) for name, values in row['stages'].items()}
    memory = number(row.get('memory_mib'), 0)
    parameters = '' if row['parameters'] is None else f'{row["parameters"] / 1e6:.1f}'
    speed = spread(row['images_a_second'], 2)
    ratio = spread(row['times_first'], 2) if row['times_first'] else ''
    name = [row['detector'], row['dtype']]
    if row['mode'] == 'train':
        return [*name, milliseconds(row['total']), speed, ratio, *stages.values(), memory, parameters]
    in_all = spread(row['images_a_second_in_all'], 2)
    gflops = '' if row.get('gflops') is None else f'{row["gflops"]:.3g}'
    return [*name, stages['model'], speed, ratio, milliseconds(row['total']), in_all, memory, gflops, parameters]


def milliseconds(values: list[float]) -> str:
    """Median and quartiles, given in seconds, as milliseconds."""
    return spread([1000 * value for value in values], 0 if values[0] >= 0.1 else 1)


def spread(values: list[float], digits: int) -> str:
    """Median and quartiles, or the median alone if the quartiles are equal."""
    median, lower, upper = (f'{value:.{digits}f}' for value in values)
    return median if lower == upper else f'{median} ({lower} to {upper})'


def number(value: float | None, digits: int) -> str:
    """A number, or nothing if it is missing."""
    return '' if value is None else f'{value:.{digits}f}'


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the stages, the memory if measured, and speed against AP if known. Returns the pictures' paths."""
    rows = results['rows']
    figures = {'stages.png': _bars(rows, 'ms', _stages)}
    if any(row.get('memory_mib') for row in rows):
        figures['memory.png'] = _bars([row for row in rows if row.get('memory_mib')], 'MiB at the peak', _memory)
    if results.get('ap') and any(row['mode'] == 'infer' for row in rows):
        figures['speed.png'] = _speed(results)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return [folder / name for name in figures]


def _label(row: Row) -> str:
    return row['detector'] + ('' if row['dtype'] == 'float32' else f', {row["dtype"]}')


def _bars(rows: list[Row], unit: str, draw_group: Callable[[Axes, list[Row]], None]) -> Figure:
    """One panel for each size, batch and mode, with one bar for each row of its group."""
    groups = grouped(rows)
    heights = [0.9 + 0.3 * len(group) for group in groups.values()]
    figure = Figure(figsize=(9, sum(heights)), layout='constrained')
    axes = figure.subplots(len(groups), squeeze=False, height_ratios=heights)
    for axis, ((height, width, batch, mode), group) in zip(axes[:, 0], groups.items(), strict=True):
        draw_group(axis, group)
        axis.set(title=f'{MODES[mode]}, {height} x {width}, batch {batch}', xlabel=unit)
        axis.invert_yaxis()
    return figure


def _stages(axis: Axes, group: list[Row]) -> None:
    """Bars of stages, each with its milliseconds where it is wide enough, and of all of them at the end."""
    left = [0.0] * len(group)
    longest = max(sum(1000 * values[0] for values in row['stages'].values()) for row in group)
    for number, stage in enumerate(group[0]['stages']):
        widths = [1000 * row['stages'][stage][0] for row in group]
        bars = axis.barh(range(len(group)), widths, left=left, label=stage, color=STAGE_COLOURS[number])
        texts = [_milliseconds(width) if width > NUMBERED_SHARE * longest else '' for width in widths]
        axis.bar_label(bars, texts, label_type='center', fontsize='small', color='white')
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, total in enumerate(left):
        axis.annotate(
            _milliseconds(total), (total, row), (4, 0), textcoords='offset points', va='center', weight='bold'
        )
    axis.set_yticks(range(len(group)), [_label(row) for row in group])
    axis.margins(x=0.15)
    axis.legend(fontsize='small', loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)


def _milliseconds(value: float) -> str:
    return f'{value:.{0 if value >= 10 else 1}f}'


def _memory(axis: Axes, group: list[Row]) -> None:
    bars = axis.barh(range(len(group)), [row['memory_mib'] for row in group])
    axis.set_yticks(range(len(group)), [_label(row) for row in group])
    axis.bar_label(bars, fmt='%.0f', padding=3)
    axis.margins(x=0.12)


def _speed(results: dict[str, Any]) -> Figure:
    """Images per second against AP, for the first size and batch of inference."""
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axis = figure.subplots()
    rows = next(group for (*_, mode), group in grouped(results['rows']).items() if mode == 'infer')
    for row in rows:
        if row['detector'] in results['ap']:
            x, y = row['images_a_second'][0], results['ap'][row['detector']].get('AP', 0.0)
            axis.scatter(x, y)
            axis.annotate(_label(row), (x, y), xytext=(5, 5), textcoords='offset points', fontsize='small')
    (height, width), batch = rows[0]['size'], rows[0]['batch']
    axis.set(xlabel=f'images per second, {height} x {width}, batch {batch}', ylabel='AP')
    axis.margins(0.2)
    axis.grid(alpha=0.3)
    return figure
