"""Fit a checkpoint of any layout to a DETR: classes and queries may differ, another architecture is an error."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import CheckpointError
from .architecture import architecture_of, config_for, is_dilated
from .class_rows import PUBLISHED, carry_rows, match_rows
from .layouts import OURS, REMOVABLE, RESNET, TRAINING_ONLY, with_mask_head
from .renaming import to_our_names
from .source import Source, source_of

CLASS_ROWS = ('bbox_head.class_embed.weight', 'bbox_head.class_embed.bias')
QUERIES = 'query_embed.weight'
COUNTER = 'num_batches_tracked'
QUERY_NOISE = 0.01  # of the queries' own spread
PARTS = ('backbone', 'neck', 'bbox_head')  # parts that every checkpoint of a detector has

_last_report = ''


@dataclass
class Report:
    """What happened to the entries of a checkpoint, for the log."""

    notes: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    level: int = logging.INFO

    def log(self, title: str, used: int) -> None:
        """Log the report, unless it was the last one: a model and its averaged copy load the same checkpoint."""
        global _last_report
        lines = [f'{title}: {used} entries used, {len(self.dropped)} dropped, {len(self.missing)} missing', *self.notes]
        lines += [f'dropped: {line}' for line in _by_reason(self.dropped)]
        lines += [f'missing: {line}' for line in _by_reason(self.missing)]
        text = '\n  '.join(lines)
        if text != _last_report:
            _last_report = text
            print_log(text, logger='current', level=self.level)

    def warn(self, note: str) -> None:
        """Add a note that the user should not miss."""
        self.notes.append(note)
        self.level = logging.WARNING


def fit_to_model(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, metadata: dict) -> None:
    """Change a state dict so that it is what the model takes, and log once what was done.

    Args:
        model: a DETR; its attribute ``dataset_meta``, if there is one, names the classes.
        state_dict: entries of any layout; changed in place. PyTorch alone handles entries of our own names that come
            from no file, so that parts can be loaded by hand.
        prefix: beginning of the entries that belong to the model.
        metadata: of the state dict, with its :class:`Source` if it comes from a file. Its ``meta`` gets the names of
            the model's classes, if the file names none of its own for mmdet's inference.

    Raises:
        CheckpointError: the entries are of no known layout or of another architecture. Nothing is changed then.
    """
    entries = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    source = source_of(metadata) or Source('the state dict')
    named = to_our_names(entries, source.path)
    if 'source' not in metadata and (named is None or named.layout is OURS):
        return
    if named is None:
        first = ', '.join(list(entries)[:3]) or 'nothing'
        raise CheckpointError(
            f'{source.path} is no checkpoint of a DETR: its first entries are {first}. Name the file of one'
        )
    expected = model.state_dict()
    report = Report(dropped={**source.dropped, **named.dropped})
    weights = _drop_surplus(named.weights, expected, report)
    try:
        _check_facts(source, model, report)
        _check(weights, expected, ('backbone',) if named.layout is RESNET else PARTS, report)
    except CheckpointError as error:
        advice = _advice(named.weights, expected, source)
        raise CheckpointError(f'{source.path} does not fit the model: {error}{advice}') from None
    used = len(weights)
    classes = _fit_classes(weights, expected, model, source, report)
    if classes and 'meta' in metadata:
        metadata['meta']['dataset_meta'] = {'classes': classes}
    _fit_queries(weights, expected, report)
    weights |= {name: expected[name] for name in report.missing}
    for name in entries:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: value for name, value in weights.items()})
    report.log(f'Loaded {source.path}, {named.layout.title}', used)


def _by_reason(entries: dict[str, str]) -> list[str]:
    reasons = dict.fromkeys(entries.values())
    return [f'{_listed([name for name in entries if entries[name] == why], 3)} ({why})' for why in reasons]


def _drop_surplus(weights: dict[str, Tensor], expected: dict[str, Tensor], report: Report) -> dict[str, Tensor]:
    """The weights without parts and counters that the model lacks."""
    parts = {name.split('.')[0] for name in expected}
    kept = {}
    for name, value in weights.items():
        if name.split('.')[0] not in parts:
            report.dropped[name] = 'the model has no such part'
        elif name.endswith(COUNTER) and name not in expected:
            report.dropped[name] = "the model's BatchNorm does not count"
        elif name.startswith(TRAINING_ONLY) and (name not in expected or value.shape != expected[name].shape):
            report.dropped[name] = 'for training only, and the model trains otherwise'
        else:
            kept[name] = value
    return kept


def _check(weights: dict[str, Tensor], expected: dict[str, Tensor], parts: tuple[str, ...], report: Report) -> None:
    """Report entries that may be missing, and raise at the first other difference."""
    given = {name.split('.')[0] for name in weights}
    removed = tuple(start for start in REMOVABLE if not any(name.startswith(start) for name in weights))
    for name, value in expected.items():
        part = name.split('.')[0]
        if name not in weights:
            if name.endswith(COUNTER):
                report.missing[name] = 'counters of BatchNorm: frozen ones have none'
            elif name.startswith(TRAINING_ONLY):
                report.missing[name] = 'for training only, keeps its initial values'
            elif part not in given and part not in parts:
                report.missing[name] = 'not in the checkpoint, keeps its initial values'
            elif name.startswith(removed):
                report.missing[name] = 'removed from the checkpoint, keeps its initial values'
                report.level = logging.WARNING
            else:
                raise CheckpointError(f'the checkpoint lacks {name}')
            continue
        first = 1 if _rows_may_differ(name) else 0
        theirs, ours = tuple(weights[name].shape), tuple(value.shape)
        if len(theirs) != len(ours) or theirs[first:] != ours[first:]:
            raise CheckpointError(f'{name} is {theirs} in the checkpoint and {ours} in the model')
    extra = next((name for name in weights if name not in expected), None)
    if extra:
        raise CheckpointError(f'the model lacks {extra}')
    rows = {len(weights[name]) for name in CLASS_ROWS if name in weights}
    if len(rows) > 1 or any(not len(weights[name]) for name in weights if _rows_may_differ(name)):
        raise CheckpointError(
            'its classifier or queries are incomplete: weight and bias of class_embed need '
            'one number of rows, and at least one'
        )


def _rows_may_differ(name: str) -> bool:
    return name in CLASS_ROWS or name.endswith(QUERIES)


def _check_facts(source: Source, model: nn.Module, report: Report) -> None:
    """Compare the number of heads and the dilation, because shapes do not show them."""
    if source.unfit:
        raise CheckpointError(source.unfit)
    heads = next((module.num_heads for module in model.modules() if hasattr(module, 'num_heads')), None)
    if source.num_heads and heads and source.num_heads != heads:
        raise CheckpointError(f'its attention has {source.num_heads} heads, that of the model {heads}')
    if source.dilated is not None and source.dilated != is_dilated(model):
        words = ('dilated (DC5)', 'not dilated')
        raise CheckpointError(f'its backbone is {words[not source.dilated]}, that of the model {words[source.dilated]}')
    if source.dilated is None and 'dc5' in Path(source.path).name.lower() and not is_dilated(model):
        report.warn("The file's name says DC5, but the model's backbone is not dilated: predictions would be wrong.")


def _advice(weights: dict[str, Tensor], expected: dict[str, Tensor], source: Source) -> str:
    theirs, ours = architecture_of(weights), architecture_of(expected)
    dilated = source.dilated if source.dilated is not None else ('dc5' in Path(source.path).name.lower() or None)
    if theirs == ours and (dilated is None or source.unfit):
        return ''
    config = config_for(theirs, dilated, masks=with_mask_head([*weights, *expected]))
    use = f'use {config}' if config else 'set depth, widths and layers in the config to match'
    return f'. The checkpoint has {theirs}, the model {ours}: {use}'


def _fit_classes(
    weights: dict[str, Tensor], expected: dict[str, Tensor], model: nn.Module, source: Source, report: Report
) -> tuple[str, ...] | None:
    """Fit the rows of the classifier to the model's classes; returns their names, if they are known."""
    names = [name for name in CLASS_ROWS if name in weights]
    if not names:
        return None
    num_rows = len(weights[names[0]])
    num_classes: int = model.bbox_head.num_classes  # type: ignore[assignment,union-attr]
    classes = (getattr(model, 'dataset_meta', None) or {}).get('classes')
    if classes is not None and len(classes) != num_classes:
        report.warn(f'the {len(classes)} class names of the data do not fit the {num_classes} classes of the model')
        classes = None
    if source.classes and num_rows - len(source.classes) not in (0, 1):
        report.warn(f'the {len(source.classes)} class names of the checkpoint do not fit its {num_rows} outputs')
    classes = None if classes is None else tuple(classes)
    rows = match_rows(num_rows, len(expected[names[0]]), source.classes, classes, num_classes)
    for name in names:
        weights[name] = carry_rows(rows, weights[name], expected[name])
    report.notes.append(f'classes: {rows.summary}')
    if rows.guessed:
        guess = f'its {num_rows} outputs are taken for COCO categories by their number, since it names no classes'
        if classes is None or classes in PUBLISHED.values():
            report.notes.append(guess)
        else:
            report.warn(f"{guess}; if it was trained on others, store their names in it, as meta['CLASSES']")
    if rows.initial:
        report.warn(f'classes that keep their initial values: {_listed(rows.initial)}')
    if rows.left:
        report.notes.append(f'classes left out, because the model lacks them: {_listed(rows.left)}')
    return rows.classes


def _listed(names: Sequence[str], at_most: int = 10) -> str:
    more = f' and {len(names) - at_most} more' if len(names) > at_most else ''
    return ', '.join(names[:at_most]) + more


def _fit_queries(weights: dict[str, Tensor], expected: dict[str, Tensor], report: Report) -> None:
    for name in (name for name in expected if name.endswith(QUERIES) and name in weights):
        queries, number = weights[name], len(expected[name])
        if number == len(queries):
            continue
        if number < len(queries):
            weights[name] = queries[:number]
            report.warn(f'queries: the first {number} of {len(queries)}')
            continue
        repeats = queries[torch.arange(number) % len(queries)]
        noise = torch.randn(repeats.shape, generator=torch.Generator().manual_seed(0))  # the same in every process
        noise[: len(queries)] = 0
        weights[name] = repeats + QUERY_NOISE * queries.float().std() * noise.to(repeats)
        report.warn(f'queries: {len(queries)} repeated to make {number}, with a little noise')
