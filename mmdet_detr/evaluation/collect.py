"""Runs a detector over the test data of a config, and collects objects and detections."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.apis import init_detector
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, EVALUATOR
from mmengine.runner import Runner
from rich.progress import track
from torch.utils.data import Subset

from ..errors import ConfigError, one_line
from ..speed.stages import StopWatch
from .boxes import Found, Truth

TIMED, WARMUP = 30, 3  # images


class Collected(NamedTuple):
    """What a detector found in a data set."""

    classes: tuple[str, ...]  # that are evaluated: things only, where the data set has stuff too
    paths: list[str]  # of the images
    truth: Truth
    found: Found
    metrics: dict[str, float]  # results of the config's own evaluator; empty if only some of the images were taken
    milliseconds: list[float]  # of some images, one at a time: the model with its post-processing


def collect(config: Config, checkpoint: str, device: str, max_images: int | None = None) -> Collected:
    """Run a detector over the images of ``test_dataloader``.

    Objects are those that the data set itself gives, in pixels of the original image, so that classes and ignored
    objects are those of training.

    Args:
        config: a config with ``test_dataloader``; ``test_evaluator`` is used if there is one.
        checkpoint: weights.
        device: 'cpu', 'cuda' or 'cuda:1'.
        max_images: take that many, spread over the data set; by default all.

    Raises:
        ConfigError: the config has no test data, they have no objects, or other classes than the model; or there is no
            such device.
    """
    if config.get('test_dataloader') is None:
        raise ConfigError('the config has no test_dataloader: there are no data to evaluate with')
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f'there is no device {device}: {one_line(error)}') from error
    with _quiet():
        model = init_detector(config, checkpoint, device=device)
        dataset = DATASETS.build(config.test_dataloader.dataset)
    chosen = list(range(len(dataset)))
    if max_images is not None and max_images < len(dataset):
        chosen = np.linspace(0, len(dataset) - 1, max_images).round().astype(int).tolist()
    infos = [dataset.get_data_info(index) for index in chosen]
    classes = _classes_of(dataset)
    known = (getattr(model, 'dataset_meta', None) or {}).get('classes')
    if known and not set(classes) & set(known):
        raise ConfigError(
            f'{checkpoint} detects {", ".join(known[:3])}, and the data has {", ".join(classes[:3])}: no class is both'
        )
    truth = _truth_of(infos, len(classes), _areas(dataset))
    part = Subset(dataset, chosen)
    with _quiet():
        evaluator = _evaluator(config, dataset) if len(chosen) == len(dataset) else None
    samples = track(_predict(model, config, part, evaluator), description='finding objects', total=len(part))
    found = _found_of(samples, len(classes), len(_metainfo(dataset)['classes']))
    with _quiet():
        metrics = evaluator.evaluate(len(part)) if evaluator else {}
    metrics = {name: value for name, value in metrics.items() if isinstance(value, int | float | np.number)}
    paths = [info['img_path'] for info in infos]
    return Collected(classes, paths, truth, found, metrics, list(_milliseconds(model, part, torch.device(device))))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Python's warnings and the tables of mmdet and pycocotools, which would tear the bar of progress."""
    MMLogger.get_current_instance()  # made below, it would write to the redirected stdout ever after
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True):
            yield
    finally:
        logging.disable(before)


def _metainfo(dataset: Any) -> dict[str, Any]:
    """Meta information with classes; that of the first of several data sets."""
    meta = dataset.metainfo
    return meta[0] if isinstance(meta, list | tuple) else meta


def _classes_of(dataset: Any) -> tuple[str, ...]:
    meta = _metainfo(dataset)
    if not meta.get('classes'):
        raise ConfigError(f'the test data set {type(dataset).__name__} has no classes')
    things = meta.get('thing_classes') or meta['classes']
    return tuple(name for name in meta['classes'] if name in things)


def _evaluator(config: Config, dataset: Any) -> Evaluator | None:
    """The evaluator of the config, as mmengine's loop of tests sets it up."""
    if not (settings := config.get('test_evaluator')):
        return None
    if isinstance(settings, dict) and 'metrics' in settings:
        evaluator = EVALUATOR.build({'type': 'Evaluator', **settings})
    else:
        evaluator = Evaluator(settings)
    evaluator.dataset_meta = dataset.metainfo
    return evaluator


def _predict(model: Any, config: Config, part: Subset, evaluator: Evaluator | None) -> Iterator[Any]:
    """The samples with predictions, in the order of the data."""
    settings = {k: v for k, v in config.test_dataloader.items() if k not in ('dataset', 'sampler', 'batch_sampler')}
    settings.setdefault('batch_size', 1)
    loader = Runner.build_dataloader(
        {**settings, 'dataset': part, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
    )
    for batch in loader:
        with torch.no_grad():
            samples = model.test_step(batch)
        if evaluator:
            evaluator.process(data_samples=samples, data_batch=batch)
        yield from samples


def _truth_of(infos: list[dict[str, Any]], num_classes: int, areas: dict[tuple, float]) -> Truth:
    rows: list[tuple[int, list[float], int, bool, float]] = []
    for number, info in enumerate(infos):
        if 'instances' not in info:
            raise ConfigError(f'the test data set gives no objects of {info.get("img_path")}')
        for instance in info['instances']:
            box = instance.get('bbox')
            if box is None or instance['bbox_label'] >= num_classes:
                continue
            area = areas.get((info.get('img_id'), *box), (box[2] - box[0]) * (box[3] - box[1]))
            ignored = bool(instance.get('ignore_flag') or instance.get('iscrowd'))
            rows.append((number, box, instance['bbox_label'], ignored, area))
    if not any(not ignored for *_, ignored, _ in rows):
        raise ConfigError('the test data have no object of a class of the config: there is nothing to compare with')
    images, boxes, labels, flags, sizes = zip(*rows, strict=True)
    return Truth(np.array(images), np.array(boxes, dtype=float), np.array(labels), np.array(flags), np.array(sizes))


def _areas(dataset: Any) -> dict[tuple, float]:
    """Areas of COCO's annotations by id of the image and corners of the box: mmdet's data sets do not give them."""
    areas: dict[tuple, float] = {}
    while not hasattr(dataset, 'ann_file') and hasattr(dataset, 'dataset'):  # a wrapper
        dataset = dataset.dataset
    path = Path(getattr(dataset, 'ann_file', None) or '')
    if path.suffix != '.json' or not path.is_file():
        return areas
    document = json.loads(path.read_text(encoding='utf-8'))
    for entry in document.get('annotations', []) if isinstance(document, dict) else []:
        for annotation in entry.get('segments_info', [entry]):
            if {'bbox', 'area'} <= annotation.keys():
                x, y, w, h = annotation['bbox']
                areas[entry['image_id'], x, y, x + w, y + h] = annotation['area']
    return areas


def _found_of(samples: Iterable[Any], num_classes: int, num_labels: int) -> Found:
    parts = [Found(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))]
    for number, sample in enumerate(samples):
        instances = sample.pred_instances
        labels = instances.labels.cpu().numpy()
        if len(labels) and labels.max() >= num_labels:
            raise ConfigError(f'the model gives the label {labels.max()}, but the test data have {num_labels} classes')
        boxes, scores = (values.float().cpu().numpy().astype(float) for values in (instances.bboxes, instances.scores))
        usable = (labels < num_classes) & np.isfinite(boxes).all(1) & np.isfinite(scores)  # a training can diverge
        parts.append(Found(np.full(len(boxes), number), boxes, labels, scores).only(usable))
    return Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _milliseconds(model: Any, part: Subset, device: torch.device) -> Iterator[float]:
    for number in range(min(len(part), TIMED + WARMUP)):
        data = model.data_preprocessor(pseudo_collate([part[number]]), False)
        watch = StopWatch(device)
        with torch.no_grad():
            model(**data, mode='predict')
        if number >= WARMUP or len(part) <= WARMUP:
            yield 1000 * watch.lap()
