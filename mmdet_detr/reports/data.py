"""Writes what a data check found as tables and a picture."""

import json
from collections import Counter, defaultdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data_check.check import SplitReport
from ..datasets.problems import ERROR, Kind, Problem
from ..visualization.fonts import draws_names

SHOWN = 50  # problems of a kind that the page lists
BARS = 40  # classes in the picture
ROWS = 20  # data sets in the picture
NUMBERED = 12  # classes up to which every bar has its number
MAX_LETTERS = 60  # of the names of classes that stand side by side


def kinds(problems: list[Problem]) -> list[tuple[str, Kind, list[Problem]]]:
    """Level, kind and problems of each kind; errors first, then the most frequent."""
    groups = defaultdict(list)
    for problem in problems:
        groups[problem.level, problem.kind].append(problem)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] != ERROR, -len(item[1])))
    return [(level, kind, found) for (level, kind), found in ordered]


def kinds_table() -> str:
    """The table of all kinds in docs/data.md."""
    rows = [f'| {kind} | {kind.level} | {kind.training} | {kind.evaluation} |' for kind in Kind]
    return '\n'.join(['| problem | level | training | evaluation |', '| --- | --- | --- | --- |', *rows]) + '\n'


def write_report(folder: Path, reports: list[SplitReport], overlap: list[Problem], num_queries: int | None) -> None:
    """Write data_check.json, data_check.md and data_check.png."""
    folder.mkdir(parents=True, exist_ok=True)
    lists = [(r.source.splits, r.source.ann_file, r.problems) for r in reports] + [((), '', overlap)]
    found = [
        {'splits': splits, 'ann_file': path, 'problems': [problem.as_json() for problem in problems]}
        for splits, path, problems in lists
    ]
    (folder / 'data_check.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    (folder / 'data_check.md').write_text(markdown(reports, overlap, num_queries), encoding='utf-8')
    draw(reports, num_queries, folder / 'data_check.png')


def _cell(text: str) -> str:
    """Text that does not end a cell of a Markdown table."""
    return text.replace('|', '\\|').replace('\n', ' ')


def markdown(reports: list[SplitReport], overlap: list[Problem], num_queries: int | None) -> str:
    """A page of all that was found."""
    text = ['# Data check\n']
    for report in reports:
        counts = report.objects
        most, total = max(counts.values(), default=0), counts.total()
        mean = total / max(1, len(counts))
        queries = f' for {num_queries} queries' if num_queries else ''
        text.append(f'## {report.source.name}: {report.source.ann_file}\n')
        text.append(f'{len(counts)} images, {total} boxes; {mean:.1f} an image, {most} at most{queries}.\n')
        text.append('| class | boxes | share |\n| --- | --- | --- |')
        text += [f'| {_cell(name)} | {n} | {100 * n / max(1, total):.1f} % |' for name, n in report.boxes.most_common()]
        text += ['', *_listed(report.problems)]
    if overlap:
        text += ['## Training and validation\n', *_listed(overlap)]
    return '\n'.join(text) + '\n'


def _listed(problems: list[Problem]) -> list[str]:
    if not problems:
        return ['Nothing wrong.\n']
    text = ['| | kind | where | what |\n| --- | --- | --- | --- |']
    for level, kind, found in kinds(problems):
        text += [f'| {level} | {kind} | {_cell(p.where)} | {_cell(p.reason)} |' for p in found[:SHOWN]]
        if len(found) > SHOWN:
            text.append(f'| {level} | {kind} | and {len(found) - SHOWN} more | all of them are in the JSON |')
    return [*text, '']


@draws_names
def draw(reports: list[SplitReport], num_queries: int | None, path: Path) -> None:
    """Draw objects per image beside the number of queries, and boxes per class, for the first ``ROWS`` data sets."""
    reports = reports[:ROWS]
    most = [name for name, _ in sum((report.boxes for report in reports), Counter[str]()).most_common()]
    names = most[:BARS]  # one order for all data sets
    upright = sum(map(len, names)) > MAX_LETTERS
    figure = Figure(figsize=(11, (3.9 if upright else 3.2) * len(reports)), layout='constrained')
    for (left, right), report in zip(figure.subplots(len(reports), 2, squeeze=False), reports, strict=True):
        _draw_objects(left, report, num_queries)
        bars = right.bar(range(len(names)), [report.boxes[name] for name in names], color='C0')
        if len(names) <= NUMBERED:
            right.bar_label(bars, fontsize='small', padding=2)
        right.margins(y=0.12)
        more = '' if len(most) <= BARS else f', the {BARS} most frequent of {len(most)}'
        right.set(title=f'{report.source.name}: boxes of the classes{more}', ylabel='boxes')
        style = {'rotation': 90, 'fontsize': 'x-small'} if upright else {'fontsize': 'small'}
        right.set_xticks(range(len(names)), names, **style)
        right.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    figure.savefig(path, dpi=100)


def _draw_objects(axis: Axes, report: SplitReport, num_queries: int | None) -> None:
    counts = list(report.objects.values())
    most = max(counts, default=0)
    axis.hist(counts, bins=range(most + 2), align='left', color='C0', rwidth=0.9 if most < 40 else 1)
    if num_queries and num_queries < 4 * most:
        axis.axvline(num_queries, color='C3', label=f'{num_queries} queries')
        axis.legend(loc='best')
    title = f'{report.source.name}: {len(counts)} images, {sum(counts)} objects'
    axis.set(title=title, xlabel='objects in an image', ylabel='images')
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
