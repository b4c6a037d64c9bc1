"""Fine-tunes a detector on a folder of pictures: reads, checks, writes a config, trains, tests and reports."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..configs import dicts_in, load_config, packaged
from ..data_check import SplitReport, check_config, check_overlap, num_queries_of
from ..datasets.problems import Kind, number_of
from ..errors import ConfigError, UserError
from ..evaluation.page import write_page
from ..reports.data import kinds, write_report
from ..reports.run import draw_curve, draw_predictions, read_scalars, summarise
from ..runs import find_checkpoint
from .base import DEFAULT, NO_WEIGHTS, find_base, load_base, published_weights, require_weights
from .config_file import fit_config, write_config
from .files import OwnDataError
from .read import OwnData, read_folder

CONFIG, RECORD = 'config.py', 'split.json'
SUMMARY = 'mmdet_detr.RunSummaryHook'
MOST_NOTES = 4  # on the data, each a line on the terminal; the record has all of them


class TrainingError(UserError):
    """A script of mmdet ended with an error, which it has shown.

    Attributes:
        code: its exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def finetune(
    folder: str | Path,
    weights: str | None = None,
    base: str | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Fine-tune a detector on a folder of pictures with boxes in COCO's, YOLO's or Pascal VOC's form.

    The training runs in a process of its own, as ``mim train`` starts it, and so does the test.

    Args:
        folder: the pictures; nothing is written there.
        weights: file, Hugging Face folder or address to start from; ``'none'`` for initial weights. None takes the
            published ones of the base, if there are any.
        base: config whose model and recipe are taken, a path or the name of one of this package; None for DETR R50.
        epochs: length of the training; None: see :func:`~mmdet_detr.own_data.config_file.fit_config`.
        batch: images a step; None: see there.
        device: 'cpu' or 'cuda'; None takes CUDA if there is any.
        out: folder of the run; None for ``work_dirs/finetune_NAME``.
        seed: of the split of a folder that has none.
        resume: continue a run in ``out`` that was stopped; of the other arguments, only ``device`` counts then.
        say: takes lines for the user.

    Returns:
        The folder of the run: ``config.py``, the best checkpoint ``best_*.pth``, ``annotations``, ``data_check``,
        ``split.json``, ``curve.png``, ``predictions.png`` and ``evaluation/index.html``.

    Raises:
        OwnDataError: the pictures cannot be trained on.
        ConfigError: the base, the device or the folder of the run cannot be used.
        CheckpointError: the weights cannot be read.
        TrainingError: training or test failed, or were interrupted.
    """
    environment = _environment(device)
    run = _run_folder(folder, out)
    if resume:
        if not (run / CONFIG).is_file():
            raise ConfigError(f'{run} has no {CONFIG} to resume')
        started = (run / 'last_checkpoint').exists()  # mmdet forgets load_from where it looks for a checkpoint
        _start('train', environment, run / CONFIG, *(['--resume'] if started else []))
    else:
        config = prepare(folder, weights, base, epochs, batch, device, run, seed, say)
        _start('train', environment, config, *_briefly(config))
    checkpoint = find_checkpoint(run)
    _start('test', environment, run / CONFIG, checkpoint)
    draw_curve(read_scalars(run), run / 'curve.png')
    draw_predictions(load_config(run / CONFIG), checkpoint, run / 'predictions.png', 12, 3, 0.5)
    write_page(run, run / 'evaluation', device=device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    say(summarise(run))
    say(f'best checkpoint: {checkpoint}')
    say(f'what it can and cannot do: {run / "evaluation" / "index.html"}')
    say(f'next: mim run mmdet_detr predict {run} IMAGE_OR_FOLDER')
    return run


def prepare(
    folder: str | Path,
    weights: str | None = None,
    base: str | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """Write all that a training needs, and do not train: arguments and errors are those of :func:`finetune`.

    Returns:
        The config, which ``mim train mmdet_detr`` takes.
    """
    for name, value in (('epochs', epochs), ('batch', batch)):
        if value is not None and value < 1:
            raise ConfigError(f'{name} has to be at least 1, got {value}')
    run = _run_folder(folder, out)
    _require_new(run, Path(folder))
    base_file = find_base(base or DEFAULT)
    data = read_folder(folder, seed)
    say(_title(data))
    shown = data.notes if len(data.notes) <= MOST_NOTES else data.notes[: MOST_NOTES - 1]
    for note in shown:
        say(f'  {note}')
    if data.notes[len(shown) :]:
        say(f'  and {len(data.notes) - len(shown)} more notes in {RECORD}')
    start = None if weights == NO_WEIGHTS else weights or published_weights(base_file)
    start = require_weights(start) if start else None
    say(f'{base_file.stem}, from {start or "initial weights"}')
    run.mkdir(parents=True, exist_ok=True)
    images = _write_data(data, run, seed)
    adapted = load_base(base_file, data.classes)
    config, notes = fit_config(adapted, data, run / 'annotations', images, run, start, epochs, batch, device)
    for part in dicts_in(config.model):
        if (part.get('init_cfg') or {}).get('type') == 'Pretrained':
            require_weights(part['init_cfg']['checkpoint'])
    say(f'  {"; ".join(notes)}')
    reports = check_config(config)
    overlap = check_overlap(reports)
    write_report(run / 'data_check', reports, overlap, num_queries_of(config.model))
    findings = list(_findings(reports))
    if overlap:
        first = overlap[0].where
        findings.append(f'images that are also trained on, which make the AP too high: {len(overlap)}, first {first}')
    if findings:
        say(f'  {"; ".join(findings)}')
    write_config(config, data, run / CONFIG)
    say(f'config: {run / CONFIG}; pictures of the data: {run / "data_check" / "data_check.png"}')
    return run / CONFIG


def _run_folder(folder: str | Path, out: str | Path | None) -> Path:
    name = re.sub(r'[^\w.-]+', '_', Path(folder).expanduser().absolute().name)
    return Path(out or Path('work_dirs', f'finetune_{name}')).expanduser().absolute()


def _require_new(run: Path, folder: Path) -> None:
    if folder.is_dir() and run.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f'{run} is inside the pictures, where nothing is written: name another folder by --out')
    if run.exists() and not run.is_dir():
        raise ConfigError(f'{run} is a file: name a folder by --out')
    if (run / CONFIG).exists():
        raise ConfigError(f'{run} has a run already: name another folder by --out, or go on with that one by --resume')
    if run.is_dir() and any(run.iterdir()) and not (run / RECORD).exists():
        raise ConfigError(f'{run} is not empty: name another folder by --out')


def _title(data: OwnData) -> str:
    sizes = [
        f'{split} {len(document["images"])} images with {len(document["annotations"])} boxes'
        for split, document in data.documents.items()
    ]
    names = ', '.join(data.classes[:8]) + (', ...' if len(data.classes) > 8 else '')
    return f'{data.root}: {data.kind}; {"; ".join(sizes)}; classes ({len(data.classes)}): {names}'


def _write_data(data: OwnData, run: Path, seed: int) -> Path:
    """Write the annotation files and a record of the split; returns the folder that file names start from."""
    folders = [str(Path(image['file_name']).parent) for d in data.documents.values() for image in d['images']]
    root = Path(os.path.commonpath(folders))
    shutil.rmtree(run / 'annotations', ignore_errors=True)
    (run / 'annotations').mkdir()
    record = {'folder': str(data.root), 'kind': data.kind, 'seed': seed, 'classes': data.classes, 'notes': data.notes}
    names = {}
    for split, document in data.documents.items():
        images = [
            {**image, 'file_name': Path(image['file_name']).relative_to(root).as_posix()}
            for image in document['images']
        ]
        names[split] = [image['file_name'] for image in images]
        (run / 'annotations' / f'{split}.json').write_text(json.dumps({**document, 'images': images}))
    text = json.dumps({**record, 'images': str(root), **names}, indent=1, ensure_ascii=False)
    (run / RECORD).write_text(text + '\n', encoding='utf-8')
    return root


def _findings(reports: list[SplitReport]) -> Iterator[str]:
    """Lines about what the check of the data found.

    Raises:
        OwnDataError: a finding forbids the training.
    """
    for report in reports:
        for _, kind, found in kinds(report.problems):
            text = f'{report.source.name}: {number_of(found)} x {kind}, first {found[0].where}: {found[0].reason}'
            if any(problem.fatal for problem in found) and kind is not Kind.TRAINED_ON:
                raise OwnDataError(text)
            yield text


def _briefly(config: Path) -> list[str]:
    """Arguments for a training whose summary leaves out what :func:`prepare` has said."""
    hooks = load_config(config).get('custom_hooks') or []
    options = [f'custom_hooks.{n}.brief=True' for n, hook in enumerate(hooks) if hook.get('type') == SUMMARY]
    return ['--cfg-options', *options] if options else []


def _environment(device: str | None) -> dict[str, str]:
    if device not in (None, 'cpu', 'cuda'):
        raise ConfigError(f"device has to be 'cpu' or 'cuda', got {device!r}")
    if device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('there is no GPU that PyTorch can use: leave --device cuda out')
    return {**os.environ, **({'CUDA_VISIBLE_DEVICES': ''} if device == 'cpu' else {})}


def _start(tool: str, environment: dict[str, str], *arguments: object) -> None:
    """Run a tool of this package in a process of its own; a request to end goes to it, too.

    Raises:
        TrainingError: it failed.
    """
    script = packaged(f'tools/{tool}.py')
    if script is None:
        raise ConfigError(f'tools/{tool}.py of mmdet_detr is missing: install it anew')
    process = subprocess.Popen([sys.executable, str(script), *map(str, arguments)], env=environment)
    with _passing_on(process):
        code = process.wait()
    if code:
        raise TrainingError(f'{tool} ended with exit code {code}', code)


@contextmanager
def _passing_on(process: subprocess.Popen) -> Iterator[None]:
    """Ctrl-C reaches the process by itself: it ends in its own time, and its exit code tells. SIGTERM is sent on."""
    try:
        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGINT, lambda *_: None),
                (signal.SIGTERM, lambda *_: process.terminate()),
            )
        }
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
