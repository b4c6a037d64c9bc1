"""Write a checkpoint of any layout in another layout."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..configs import load_config
from ..errors import CheckpointError
from .architecture import architecture_of
from .class_rows import COCO_IDS, COCO_NAMES, NAMES_BY_COCO_ID, NAMES_BY_PANOPTIC_ID
from .config_text import parse_config
from .files import load_from_local
from .fit import CLASS_ROWS
from .hugging_face import Settings, class_names, model_config, processor_config, settings_from_config
from .layouts import HF, HF_TIMM, MASK_HEAD, MMDET3, OFFICIAL, OURS, TRAINING_ONLY, with_mask_head
from .renaming import from_our_names
from .source import Source
from .whole import whole_detr

TARGETS = {layout.name: layout for layout in (OFFICIAL, HF, MMDET3, OURS)}


def convert_checkpoint(
    src: Path, dst: Path, to: str, config: Path | None = None, coco80: bool = False, force: bool = False
) -> str:
    """Convert a checkpoint. The new file holds its weights and class names only.

    A mask head is left out for a layout that has none. Then the line that is returned says so.

    Args:
        src: file or Hugging Face folder of any layout.
        dst: file to write, a folder for ``hf``. Nothing incomplete is left under its name if writing fails.
        to: one of :data:`TARGETS`.
        config: config of the model, for ``hf``: image preparation, heads, dilation. By default the one in the
            checkpoint, if it is ours, else that of the published models.
        coco80: of a classifier with an output for each of COCO's category ids, keep those of the 80 classes.
        force: overwrite what is there.

    Returns:
        One line that says what was written.

    Raises:
        FileExistsError: ``dst`` exists, and not ``force``.
        CheckpointError: ``src`` cannot be read, or does not go into the layout.
        ConfigError: ``config`` cannot be read.
    """
    if os.path.lexists(dst) and not force:
        raise FileExistsError(f'{dst} exists: --force overwrites it')
    if dst.is_dir() and to != HF.name:
        raise CheckpointError(f'{dst} is a folder: name the file to write')
    if dst.is_file() and to == HF.name:
        raise CheckpointError(f'{dst} is a file: name the folder to write')
    if dst.suffix == '.safetensors':
        raise CheckpointError(f'{dst}: files are written by torch.save, name it .pth (safetensors: --to hf)')
    checkpoint = load_from_local(str(src), 'cpu')
    named, source = whole_detr(checkpoint)
    without = (TRAINING_ONLY,) if TARGETS[to].has_masks else (TRAINING_ONLY, MASK_HEAD)
    weights = {name: value for name, value in named.weights.items() if not name.startswith(without)}
    num_dropped = len(named.dropped) + len(named.weights) - len(weights)
    num_rows = len(weights[CLASS_ROWS[0]])
    classes = source.classes if num_rows - len(source.classes or ()) in (0, 1) else None
    cfg = str(checkpoint.get('meta', {}).get('cfg', ''))
    if coco80:
        weights, classes = _coco80_rows(weights, source), COCO_NAMES
    if to == HF.name:
        settings = _settings(config, cfg, source, weights)
        with _what_else_writes(src):
            _write_hugging_face(dst, weights, classes, settings)
    else:
        _write_file(dst, to, weights, classes, cfg)
    origin = f'from {named.layout.title}, {num_dropped} dropped'
    if with_mask_head(named.weights) and not with_mask_head(weights):
        origin += f', the mask head too: {TARGETS[to].title} has none'
    return f'{dst}: {TARGETS[to].title}, {len(weights)} entries ({origin})'


@contextlib.contextmanager
def _what_else_writes(path: Path | str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(
            f'{error}: so transformers has no such model, and --to mmdet_detr writes {path}'
        ) from error


def _settings(config: Path | None, cfg: str, source: Source, weights: dict[str, Tensor]) -> Settings:
    values = load_config(config).to_dict() if config else parse_config(cfg)
    model = values.get('model')
    if isinstance(model, dict) and model.get('type') == 'mmdet_detr.DETR':
        with _what_else_writes(source.path):
            return settings_from_config(values)
    if config:
        raise CheckpointError(f'{config} is no config of a mmdet_detr.DETR: --config takes that of {source.path}')
    num_heads = source.num_heads or (8 if architecture_of(weights).embed_dims == 256 else None)
    if num_heads is None:
        raise CheckpointError(f'{source.path} does not tell the number of attention heads: name its config by --config')
    dilated = 'dc5' in Path(source.path).name.lower() if source.dilated is None else source.dilated
    return Settings(num_heads, dilated=dilated)


def _coco80_rows(weights: dict[str, Tensor], source: Source) -> dict[str, Tensor]:
    num_rows = len(weights[CLASS_ROWS[0]])
    if num_rows - 1 not in (len(NAMES_BY_COCO_ID), len(NAMES_BY_PANOPTIC_ID)):
        raise CheckpointError(f"{source.path} has {num_rows} outputs, not one for each of COCO's ids: drop --coco80")
    rows = torch.tensor([*COCO_IDS, num_rows - 1])
    return {name: value[rows] if name in CLASS_ROWS else value for name, value in weights.items()}


def _write_file(dst: Path, to: str, weights: dict[str, Tensor], classes: tuple[str, ...] | None, cfg: str) -> None:
    named = from_our_names(weights, TARGETS[to])
    if to == OFFICIAL.name:
        content: dict[str, Any] = {'model': named}
    else:
        means = [name for name in named if name.endswith('running_mean')]
        counters = {name.replace('running_mean', 'num_batches_tracked'): torch.tensor(0) for name in means}
        meta: dict[str, Any] = {'cfg': cfg} if to == OURS.name and cfg else {}
        if classes:
            meta['dataset_meta'] = {'classes': classes}
        content = {'state_dict': {**counters, **named}, 'meta': meta}
    with _replacing(dst) as path:
        torch.save(content, path)


def _write_hugging_face(
    dst: Path, weights: dict[str, Tensor], classes: tuple[str, ...] | None, settings: Settings
) -> None:
    names = class_names(classes, len(weights[CLASS_ROWS[0]]))
    config, processor = model_config(weights, names, settings), processor_config(settings, with_mask_head(weights))
    tensors = from_our_names(weights, HF_TIMM if settings.dilated else HF)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    with _replacing(dst) as path:
        path.mkdir()
        (path / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
        (path / 'preprocessor_config.json').write_text(json.dumps(processor, indent=2) + '\n')
        # transformers refuses a file that does not say its format. save_file would write one for its owner alone.
        (path / 'model.safetensors').write_bytes(safetensors.torch.save(tensors, {'format': 'pt'}))


@contextlib.contextmanager
def _replacing(dst: Path) -> Iterator[Path]:
    """A path beside the file or folder to write. It takes its place in the end, so that nobody sees half a file."""
    dst = dst.resolve()  # a link stays, and its target is replaced
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dst.parent, prefix=f'.{dst.name}.') as folder:
        path = Path(folder) / dst.name
        yield path
        if dst.is_dir():  # other files in the folder stay
            for file in path.iterdir():
                file.replace(dst / file.name)
        else:
            path.replace(dst)
