"""Writes everything that is known of a run as one page."""

import contextlib
import shlex
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..attention import attend
from ..attention.page import write_page as write_attention
from ..configs import load_config
from ..errors import UserError
from ..evaluation.html import document, linked
from ..evaluation.page import write_page as write_evaluation
from ..inference import load
from ..runs import find_checkpoint, find_config
from .run import draw_curve, draw_predictions, read_scalars, summarise

PAGE = 'report.html'
LOOKED_AT = 8  # test images, of which the one with most detections is shown with its attention


def write_page(
    run: Path,
    images: int = 12,
    columns: int = 3,
    score_thr: float = 0.5,
    evaluated: int = 500,
    device: str = 'cpu',
) -> Path:
    """Write ``report.html`` into the folder of a run, with curves, predictions, errors, attention and the config.

    Its pictures lie beside it and in the folders ``evaluation`` and ``attention``, whose pages have more of them.

    Args:
        run: folder of a training run.
        images: number of test images on the sheet of predictions.
        columns: images in a row of the sheet.
        score_thr: detections below are not drawn.
        evaluated: number of test images, spread over the data, in which errors are looked for; 0 leaves this out.
        device: where this is done.

    Returns:
        The page.

    Raises:
        ConfigError: the folder has no config, or it cannot be read.
        CheckpointError: the folder has no checkpoint, or it cannot be used.
        FileNotFoundError: the folder has no log of a training run.
    """
    config_path = find_config(run)
    config, checkpoint = load_config(config_path), find_checkpoint(run)
    draw_curve(read_scalars(run), run / 'curve.png')
    draw_predictions(load_config(config_path), checkpoint, run / 'predictions.png', images, columns, score_thr)
    parts = [
        f'<h1>{escape(config_path.stem)}</h1>',
        f'<p>{escape(summarise(run))}</p>',
        '<h2>Training</h2>',
        linked('curve.png', 'Loss and results over the iterations'),
        '<h2>Predictions</h2>',
        f'<p>Weights {escape(checkpoint.name)}; the truth on the left, the prediction on the right.</p>',
        linked('predictions.png', 'Truth and prediction of test images'),
        *_evaluation(run, evaluated, checkpoint, device),
        *_attention(run, config, score_thr, device),
        '<h2>Once more</h2>',
        f'<pre>{escape(_command(config_path, run))}</pre>',
        f'<details><summary>{escape(config_path.name)}</summary><pre>{escape(config_path.read_text())}</pre></details>',
    ]
    page = run / PAGE
    page.write_text(document(f'Report of {config_path.stem}', parts), encoding='utf-8')
    return page


def _evaluation(run: Path, images: int, checkpoint: Path, device: str) -> Iterator[str]:
    if not images:
        return
    yield '<h2>Errors</h2>'
    try:
        numbers = write_evaluation(run, run / 'evaluation', str(checkpoint), device, images)
    except UserError as error:  # such as data without objects
        yield f'<p>Not evaluated: {escape(str(error))}</p>'
        return
    costs = ', '.join(f'{error["kind"]} {error["cost_ap50"]:.3f}' for error in numbers['errors'])
    yield (
        f'<p>In {numbers["images"]} test images AP is {_number(numbers["AP"])}, and AP50 {_number(numbers["AP50"])}. '
        f'What each kind of error costs of AP50: {costs}. <a href="evaluation/index.html">All of the evaluation</a> '
        'has classes, thresholds, confusions and what to do.</p>'
    )
    shown = [name for name in numbers['pictures'] if name.startswith('errors_')]
    for name in ['precision_recall.png', *shown]:
        kind = Path(name).stem.removeprefix('errors_').replace('_', ' ')
        yield f'<h3>{kind.capitalize()}</h3>'
        yield linked(f'evaluation/{name}', kind)


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


def _attention(run: Path, config: Config, score_thr: float, device: str) -> Iterator[str]:
    """Of a DETR, and of an image with detections; nothing else can be drawn."""
    with contextlib.suppress(UserError):
        detector = load(run, device=device)
        paths = _test_images(config)
        found = detector(paths, score_thr)
        counts = [len(result) for result in found]
        image = paths[int(np.argmax(counts))]
        pictures = write_attention(attend(detector, image, score_thr), run / 'attention', name=Path(image).name)
        yield '<h2>Attention</h2>'
        yield (
            f'<p>What the detector looks at in {escape(Path(image).name)}: a cell has as much of the colour of a '
            'detection as its query takes from there. <a href="attention/index.html">All pictures of attention</a> are '
            'explained there.</p>'
        )
        for name in pictures[:1]:
            yield linked(f'attention/{name}', Path(name).stem)


def _test_images(config: Config) -> list[str]:
    init_default_scope(config.get('default_scope', 'mmdet'))
    dataset: Any = DATASETS.build(config.test_dataloader.dataset)
    chosen = np.linspace(0, len(dataset) - 1, min(LOOKED_AT, len(dataset))).round().astype(int)
    return [dataset.get_data_info(int(index))['img_path'] for index in chosen]


def _command(config: Path, run: Path) -> str:
    """It starts as the training started: a test or ``--resume`` leaves a config with other weights to start from."""
    given = load_config(config)
    for log in sorted(run.glob('*/vis_data/scalars.json'), reverse=True):
        path = log.with_name('config.py')
        start = load_config(path) if path.is_file() else given
        if start.get('resume'):
            continue
        if any(start.get(key) != given.get(key) for key in ('load_from', 'resume')):
            config = path
        break
    return shlex.join(['mim', 'train', 'mmdet_detr', str(config), '--work-dir', f'{run}-again'])
