"""Writes what a data check found as tables and a picture."""

import json
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from ..data_check.check import SplitReport
from ..datasets.problems import ERROR, Kind, Problem

SHOWN = 50  # problems of a kind that the page lists
BARS = 40  # classes in the picture
ROWS = 20  # data sets in the picture


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


def draw(reports: list[SplitReport], num_queries: int | None, path: Path) -> None:
    """Draw objects per image beside the number of queries, and boxes per class, for the first ``ROWS`` data sets."""
    reports = reports[:ROWS]
    figure = Figure(figsize=(11, 3.2 * len(reports)), layout='constrained')
    for (left, right), report in zip(figure.subplots(len(reports), 2, squeeze=False), reports, strict=True):
        counts = list(report.objects.values()) or [0]
        left.hist(counts, bins=range(max(counts) + 2), align='left', color='C0')
        if num_queries and num_queries < 4 * max(counts):
            left.axvline(num_queries, color='C3', label=f'{num_queries} queries')
            left.legend()
        left.set(title=report.source.name, xlabel='objects in an image', ylabel='images')
        classes = report.boxes.most_common(BARS)
        right.bar(range(len(classes)), [number for _, number in classes], color='C0')
        more = '' if len(report.boxes) <= BARS else f', {BARS} of {len(report.boxes)}'
        right.set(title=f'boxes of the classes{more}', ylabel='boxes')
        names = [name for name, _ in classes]
        right.set_xticks(range(len(classes)), names, rotation=90, fontsize='small', parse_math=False)
    figure.savefig(path, dpi=100)
