"""Finds the annotation files and images that the data loaders of a config read."""

import os.path as osp
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config

from ..configs import dicts_in
from ..datasets.annotations import require_names
from ..datasets.images import MAX_PIXELS, decodes_files, is_local
from ..datasets.panoptic_dataset import SPLIT, PanopticDataset
from ..datasets.robust_coco_dataset import RobustCocoDataset
from ..errors import ConfigError
from ..models import TransformerNeck


@dataclass(frozen=True)
class Source:
    """One data set of a data loader.

    Attributes:
        splits: who reads it: 'train', 'val', 'test', or several.
        ann_file: its COCO file.
        images: folder that its file names are joined to.
        classes: names of the classes, in the order of the labels.
        ignore_orientation: whether its loader ignores EXIF's orientation.
        max_pixels: more pixels than that count as broken.
        allow_outside: whether file names may lead out of the folder.
        evaluated: whether an evaluator reads the file in validation.
        masks: whether its pipeline loads masks.
        own_loader: whether a transform of the user's own reads the images, in whatever format.
        segment_maps: folder of the PNGs of a panoptic file; None for other files.
        thing_classes: names of things in a panoptic config; None if it does not say.
        stuff_classes: names of stuff, likewise.
    """

    splits: tuple[str, ...]
    ann_file: str
    images: str
    classes: tuple[str, ...]
    ignore_orientation: bool = False
    max_pixels: int = MAX_PIXELS
    allow_outside: bool = False
    evaluated: bool = True
    masks: bool = False
    own_loader: bool = False
    segment_maps: str | None = None
    thing_classes: tuple[str, ...] | None = None
    stuff_classes: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return ', '.join(self.splits)


def sources_of(config: Config) -> list[Source]:
    """The data sets behind ``train_dataloader``, ``val_dataloader`` and ``test_dataloader``; equal ones once.

    Raises:
        ConfigError: there is none, or one is not in COCO's format.
    """
    found: dict[tuple, list[str]] = {}
    for split in ('train', 'val', 'test'):
        loader = config.get(f'{split}_dataloader')
        if loader:
            if not isinstance(loader, dict) or 'dataset' not in loader:
                raise ConfigError(f'{split}_dataloader has no dataset: give it dataset=dict(type=..., ann_file=...)')
            try:
                for leaf in _leaves(loader['dataset']):
                    found.setdefault(_key(leaf), []).append(split)
            except (AttributeError, KeyError, TypeError, UnicodeError) as error:
                raise ConfigError(f'{split}_dataloader is not understood: {type(error).__name__}: {error}') from error
    if not found:
        raise ConfigError(f'{config.filename} has no train_dataloader, val_dataloader or test_dataloader to check')
    return [Source(tuple(dict.fromkeys(splits)), *key) for key, splits in found.items()]


def _leaves(dataset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = dataset.get('datasets', dataset.get('dataset'))
    if inner is None:
        yield dataset
    elif isinstance(inner, list):
        for one in inner:
            yield from _leaves(one)
    else:
        yield from _leaves(inner)


def _key(dataset: dict[str, Any]) -> tuple:
    name = dataset.get('type')
    kind: Any = DATASETS.get(name) if isinstance(name, str) else name
    if kind is None or not issubclass(kind, CocoDataset) or not _reads_coco(kind):
        raise ConfigError(f'check_data reads COCO files, not those of a {name}')
    root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
    panoptic = issubclass(kind, PanopticDataset)
    if panoptic and prefix.get('seg') is None:
        raise ConfigError("PanopticDataset needs data_prefix=dict(img=..., seg='folder of the PNGs')")
    paths = [dataset.get('ann_file') or '', prefix.get('img') or '', prefix.get('seg') or '']
    ann_file, images, maps = (path if osp.isabs(path) or '://' in path else osp.join(root, path) for path in paths)
    metainfo = kind._load_metainfo(dict(dataset.get('metainfo') or {}))
    classes = metainfo.get('classes', ())
    require_names(classes)
    loading, loading_maps = (_step(dataset, name) for name in ('LoadImage', 'LoadPanopticSegments'))
    for path, owner in ((ann_file, dataset), (images, loading), (maps, loading_maps)):
        if not is_local(path, owner.get('backend_args')):
            raise ConfigError(f'check_data reads local files, and {path} is on another storage')
    return (
        ann_file,
        images,
        tuple(classes),
        'ignore_orientation' in loading.get('color_type', ''),
        dataset.get('max_pixels', MAX_PIXELS),
        dataset.get('allow_outside', False),
        dataset.get('evaluated', True),
        bool(_step(dataset, 'LoadAnnotations').get('with_mask')),
        _has_own_loader(dataset.get('pipeline', [])),
        *((maps, *(_names(metainfo.get(key)) for key in SPLIT)) if panoptic else ()),
    )


def _step(dataset: dict[str, Any], name: str) -> dict[str, Any]:
    """The first step of a pipeline with this in its name."""
    return next((step for step in dataset.get('pipeline', []) if name in str(step.get('type'))), {})


def _has_own_loader(pipeline: list[dict[str, Any]]) -> bool:
    kinds = [step.get('type') for step in pipeline]
    known: list[Any] = [TRANSFORMS.get(kind) if isinstance(kind, str) else kind for kind in kinds]
    return bool(known) and not any(map(decodes_files, known))


def _names(names: Any) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _reads_coco(kind: type[CocoDataset]) -> bool:
    """Whether a data set reads COCO files as ours do; those of LVIS, Objects365 and CocoPanopticDataset do not."""
    as_it_is = kind.COCOAPI is CocoDataset.COCOAPI and kind.load_data_list is CocoDataset.load_data_list
    return as_it_is or issubclass(kind, RobustCocoDataset)


def num_queries_of(model: Any) -> int | None:
    """The first ``num_queries`` in the config of a model, or that of our transformer; None without queries."""
    default = signature(TransformerNeck).parameters['num_queries'].default
    numbers = (
        part.get('num_queries', default if str(part.get('type')).endswith('TransformerNeck') else None)
        for part in dicts_in(model)
    )
    return next((number for number in numbers if isinstance(number, int)), None)
