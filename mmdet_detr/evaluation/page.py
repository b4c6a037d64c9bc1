"""Writes what a detector can and cannot do as one page with pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import init_default_scope
from rich.progress import Progress

from ..configs import load_config
from ..errors import ConfigError
from ..runs import find_checkpoint, find_config
from ..speed.machine import machine
from . import pictures
from .analysis import STEPS, Analysis, analyse
from .boxes import IOU
from .collect import Collected, collect
from .confusion import frequent_confusions
from .errors import ErrorKind
from .html import render

CASES = 12  # errors of a kind that are drawn


def write_page(
    run: Path,
    out: Path,
    checkpoint: str | None = None,
    device: str = 'cpu',
    max_images: int | None = None,
) -> dict[str, Any]:
    """Evaluate the boxes of a detector on the test data of its config, and write ``index.html`` with its pictures.

    Average precision is pycocotools', of the objects that the data set gives. ``out`` gets ``index.html``,
    ``evaluation.json`` and the pictures; files of these names are replaced.

    Args:
        run: folder of a training run, or a config.
        out: folder to write.
        checkpoint: weights; by default the best or last ones in the folder of the run.
        device: 'cpu', 'cuda' or 'cuda:1'.
        max_images: evaluate that many images, spread over the data; by default all.

    Returns:
        What ``evaluation.json`` has: ``AP``, ``AP50``, ``AP75``, ``AP_small``, ``AP_medium`` and ``AP_large`` between 0
        and 1, None where there is no object; ``best_f1`` with ``threshold``, ``precision``, ``recall`` and ``f1``, None
        where no detection is right; ``classes``, a list with ``name``, ``objects`` and the same of each class;
        ``errors``, a list with ``kind``, ``number`` and ``cost_ap50`` of each kind; ``confusion`` with ``counts``, rows
        the true classes and background, columns the detected classes and missed; ``speed`` in milliseconds;
        ``evaluator``, the results of the config's own evaluator by their names; ``curves``, precision at 101 recalls;
        ``pictures``, the names of the files.

    Raises:
        ConfigError: there is no config, it has no data to evaluate with, or there is no such device.
        CheckpointError: there are no weights, or they cannot be used.
    """
    if max_images is not None and max_images < 1:
        raise ConfigError(f'max_images={max_images}: at least one image is needed')
    config_path = find_config(run)
    weights = checkpoint or str(find_checkpoint(run))
    config = load_config(config_path)
    init_default_scope(config.get('default_scope') or 'mmdet')
    collected = collect(config, weights, device, max_images)
    with Progress() as progress:
        task = progress.add_task('comparing', total=STEPS)
        analysis = analyse(collected, lambda: progress.advance(task))
    names = {'config': str(config_path), 'checkpoint': weights}
    return write(collected, analysis, out, names, machine(device))


def write(
    collected: Collected, analysis: Analysis, out: Path, names: dict[str, str], machine_name: str
) -> dict[str, Any]:
    """Write the page of an analysis.

    Args:
        collected: objects and detections.
        analysis: what :func:`analyse` made of them.
        out: folder to write.
        names: ``config`` and ``checkpoint``, as they are shown.
        machine_name: where the speed was measured.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob('errors_*.jpg'), out / 'class_curves.png'):  # this evaluation may have none
        old.unlink(missing_ok=True)
    classes = collected.classes
    numbers = {**names, **analysis.numbers}
    numbers['speed'] = {**numbers['speed'], 'machine': machine_name}
    numbers['confusion'] = {
        **numbers['confusion'],
        'rows': [*classes, pictures.BACKGROUND_LABEL],
        'columns': [*classes, pictures.MISSED_LABEL],
        'pairs': [
            {'true': classes[row], 'detected': classes[column], 'number': number}
            for row, column, number in frequent_confusions(analysis.confusion)
        ],
    }
    numbers['curves'] = _curves(analysis.precision, classes)
    drawn = _draw(analysis, classes, out)
    sheets = {}
    for kind in ErrorKind:
        if cases := list(_cases(collected, analysis, kind)):
            sheets[kind.label] = f'errors_{kind.label}.jpg'
            pictures.draw_cases(cases, out / sheets[kind.label])
    numbers['pictures'] = [*drawn.values(), *sheets.values()]
    (out / 'evaluation.json').write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    (out / 'index.html').write_text(render(numbers, drawn, sheets), encoding='utf-8')
    return numbers


def _curves(precision: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Precision at 101 recalls from 0 to 1, at an IoU of 0.5, of the classes with objects."""
    rounded = precision[0].round(4)
    return {name: rounded[:, label].tolist() for label, name in enumerate(classes) if (rounded[:, label] > -1).all()}


def _draw(analysis: Analysis, classes: tuple[str, ...], out: Path) -> dict[str, str]:
    """Draw all but the errors; the names of the files by what they show."""
    names = ['precision_recall', 'thresholds', 'confusion', 'costs']
    pictures.draw_precision_recall(analysis.precision, classes, out / 'precision_recall.png')
    if len(classes) > pictures.NAMED:
        names.append('class_curves')
        pictures.draw_class_curves(analysis.precision, classes, out / 'class_curves.png')
    pictures.draw_thresholds(analysis.curve, analysis.best, out / 'thresholds.png')
    threshold = analysis.numbers['confusion']['score_threshold']
    pictures.draw_confusion(analysis.confusion, classes, threshold, IOU, out / 'confusion.png')
    pictures.draw_costs(analysis.gains, out / 'costs.png')
    return {name: f'{name}.png' for name in names}


def _cases(collected: Collected, analysis: Analysis, kind: ErrorKind) -> Iterator[pictures.Case]:
    """The worst errors of a kind: detections with the highest scores, or the largest objects."""
    truth, shown, errors, classes = collected.truth, analysis.shown, analysis.errors, collected.classes
    places = errors.of(kind)
    missed = kind is ErrorKind.MISSED
    worst = places[np.argsort(-(truth.areas if missed else shown.scores)[places], kind='stable')][:CASES]
    for place in worst.tolist():
        image = int((truth if missed else shown).images[place])
        others = truth.boxes[truth.images == image]
        path = collected.paths[image]
        if missed:
            score = analysis.scores[place]
            title = f'{classes[truth.labels[place]]}, {f"score {score:.2f} only" if score else "at no score"}'
            yield pictures.Case(path, title, None, truth.boxes[place], others)
            continue
        title = f'{classes[shown.labels[place]]} {shown.scores[place]:.2f}'
        concerned = int(errors.objects[place])
        if concerned < 0:
            yield pictures.Case(path, title, shown.boxes[place], None, others)
            continue
        if truth.labels[concerned] != shown.labels[place]:
            title += f', is {classes[truth.labels[concerned]]}'
        finder = np.flatnonzero(analysis.matches.right & (analysis.matches.objects == concerned))
        rival = shown.boxes[finder[0]] if kind is ErrorKind.DUPLICATE and len(finder) else None
        yield pictures.Case(path, title, shown.boxes[place], truth.boxes[concerned], others, rival)
