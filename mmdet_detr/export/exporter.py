"""Write a trained model into a file of another format, after comparing the two."""

import copy
import json
import math
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..average_precision import average_precision
from ..configs import load_config
from ..errors import UserError, one_line
from ..inference import Detector, load
from ..log import warn
from ..models.frozen_norm import fold_for_good
from ..runs import find_checkpoint, find_config
from . import check, int8
from .deployable import Deployable
from .formats import FORMATS, Format, Shape, format_of, open_file
from .metadata import describe

RUNTIME = Path(__file__).with_name('runtime.py')
RUNTIME_NAME = 'detr_runtime.py'
OPSETS = range(16, 24)


@dataclass(frozen=True)
class Exported:
    """What :func:`export` has written."""

    files: list[Path]  # the model first
    metadata: dict[str, Any]
    differences: dict[str, float] | None  # to the model, None if not checked
    ap: dict[str, float] | None  # of the ``model`` and of the ``file`` on the config's test data


def export(
    model: str | Path,
    checkpoint: str | Path | None,
    out: str | Path,
    to: str | None = None,
    *,
    int8_images: str | Path | None = None,
    bf16: bool = False,
    raw: bool = False,
    uint8: bool = False,
    masks: int | None = None,
    shape: Shape = Shape(),  # noqa: B008  (it is frozen)
    opset: int = 17,
    checked: bool = True,
    measure_ap: bool = True,
    force: bool = False,
) -> Exported:
    """Write a trained DETR into a file, with a runtime beside it that needs neither torch nor mmdet.

    Args:
        model: a config, or the folder of a run.
        checkpoint: its weights; None takes the best or last ones of the run.
        out: the file.
        to: ``'onnx'``, ``'openvino'``, ``'pt2'`` or ``'torchscript'``; None goes by the suffix of ``out``.
        int8_images: a folder of images to choose the scales of int8 by; None stays with floats.
        bf16: compute in bfloat16.
        raw: give logits and normalised boxes instead of detections.
        uint8: take pixels that are not normalised.
        masks: so many of the best detections get masks; None makes masks of all.
        shape: what is fixed of batch, height and width.
        opset: of ONNX.
        checked: compare the file with the model before it takes its name.
        measure_ap: in bf16 and int8, measure AP of both on the config's test data, if they are there.
        force: overwrite files.

    Raises:
        UserError: something of this is not possible, or the file differs from the model by more than rounding does.
    """
    out = Path(out)
    precision = 'int8' if int8_images is not None else 'bfloat16' if bf16 else 'float32'
    kind = _format(out, to, precision)
    if int8_images is not None and bf16:
        raise UserError('choose one of --int8 and --bf16')
    if opset not in OPSETS:
        raise UserError(f'--opset {opset} has to be from {OPSETS[0]} to {OPSETS[-1]}')
    if int8_images is not None and not Path(int8_images).is_dir():
        raise UserError(f'{int8_images} is no folder of images')
    _require_place(out, kind, force)
    config, weights = _config_and_weights(Path(model), checkpoint)
    detector = _load(config, weights)
    reference = Deployable(detector.model, raw=raw, uint8=uint8, num_masks=masks)
    module = copy.deepcopy(reference)
    fold_for_good(module.model.backbone)
    module.autocast = bf16 and kind.name != 'openvino'  # OpenVINO is told when it compiles the file
    _require_masks(module, masks)
    metadata = describe(detector, module, config, Path(weights), precision)
    metadata['shape'] = [shape.batch, shape.height, shape.width]
    quantise = None
    if int8_images is not None:
        inputs = int8.calibration_inputs(detector, module, Path(int8_images), shape)
        quantise = partial(int8.quantise, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export_') as folder:
        plain, described, complete = (Path(folder, name, out.name) for name in ('plain', 'described', 'complete'))
        for path in (plain, described, complete):
            path.parent.mkdir()
        try:
            kind.write(module, shape, plain, opset, quantise)
        except UserError:
            raise
        except Exception as error:  # exporters raise anything
            raise UserError(f'{kind.name} cannot be written: {one_line(error)[:300]}') from error
        kind.stamp(plain, described, json.dumps(metadata))
        found = scores = None
        if checked:
            found = _compare(reference, described, kind, shape, precision)
            metadata['difference'] = found
        if measure_ap and precision != 'float32' and not raw:
            scores = _accuracies(config, weights, described)
            metadata |= {'ap': scores} if scores else {}
        kind.stamp(described, complete, json.dumps(metadata))
        files = [out, *(out.with_name(file.name) for file in complete.parent.iterdir() if file.name != out.name)]
        for file in files[::-1]:
            os.replace(complete.parent / file.name, file)
    if kind.name in ('onnx', 'openvino') and not raw:
        files.append(out.with_name(RUNTIME_NAME))
        files[-1].write_bytes(RUNTIME.read_bytes())
    return Exported(files, metadata, found, scores)


def _require_place(out: Path, kind: Format, force: bool) -> None:
    """Nothing of others is overwritten."""
    if out.is_dir():
        raise UserError(f'{out} is a folder: name a file')
    for path in (out, out.with_suffix('.bin') if kind.name == 'openvino' else out):
        if path.exists() and not force:
            raise UserError(f'{path} exists: overwrite it by --force')
    beside = out.with_name(RUNTIME_NAME)
    other = beside.exists() and beside.read_bytes() != RUNTIME.read_bytes()
    if kind.name in ('onnx', 'openvino') and other and not force:
        raise UserError(f'{beside} is another one than ours: overwrite it by --force')


def _load(config: Config, weights: str) -> Detector:
    """The detector; what the checkpoint does not say would be random, and differ with the seed."""
    detectors = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detectors.append(load(weights, copy.deepcopy(config), 'cpu'))
    first, second = (detector.model.state_dict() for detector in detectors)
    missing = [name for name, value in first.items() if not torch.equal(value, second[name]) and _is_used(name)]
    if missing:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise UserError(f'{weights} does not fit the config: {missing[0]}{more} would be random')
    head = getattr(detectors[0].model, 'bbox_head', None)
    number = getattr(head, 'num_classes', None)
    if number is not None and number != len(detectors[0].classes):
        raise UserError(f'{weights} names {len(detectors[0].classes)} classes, and the config has {number}')
    return detectors[0]


def _is_used(name: str) -> bool:
    return 'training_queries' not in name


def _require_masks(module: Deployable, masks: int | None) -> None:
    """A panoptic map is made of all queries, each with its best class."""
    head, mask_head = module.model.bbox_head, module.model.mask_head
    if masks is not None and (masks < 1 or mask_head is None):
        raise UserError(f'--masks {masks}: ' + ('give one mask at least' if masks < 1 else 'this model has no masks'))
    if masks is not None and module.raw:
        raise UserError('--raw has the masks of all queries: leave out --masks')
    if mask_head is None or mask_head.num_things_classes in (None, head.num_classes) or module.raw:
        return
    found = head.test_cfg.get('max_per_img')
    queries = getattr(module.model.neck.query_embed, 'weight', torch.empty(0)).shape[0]
    if head.match_loss.use_sigmoid:
        raise UserError('a panoptic model with a sigmoid loss can only be exported with --raw')
    if found is not None and 0 <= found < queries:
        raise UserError(
            f'a panoptic map needs all {queries} queries: set model.test_cfg.max_per_img={queries}, not {found}'
        )


def _format(out: Path, to: str | None, precision: str) -> Format:
    if to is not None and to not in [kind.name for kind in FORMATS]:
        raise UserError(f'no format {to!r}: there are {", ".join(kind.name for kind in FORMATS)}')
    kind = next((kind for kind in FORMATS if kind.name == to), None) or format_of(out)
    if out.suffix != kind.suffix:
        raise UserError(f'{out}: the name of a file of {kind.name} ends in {kind.suffix}')
    if precision not in kind.computes:
        others = ' or '.join(other.name for other in FORMATS if precision in other.computes)
        raise UserError(f'{kind.name} does not compute in {precision} on a CPU: use --to {others}')
    return kind


def _config_and_weights(model: Path, checkpoint: str | Path | None) -> tuple[Config, str]:
    path = find_config(model)
    weights = Path(checkpoint) if checkpoint is not None else find_checkpoint(model)
    if not weights.is_file():
        raise UserError(f'no such checkpoint: {checkpoint}: name a file')
    return load_config(path), str(weights)


def _compare(reference: Deployable, path: Path, kind: Format, shape: Shape, precision: str) -> dict[str, float]:
    compute, _ = open_file(path)
    exact = precision == 'float32'
    found = check.differences(reference, compute, shape, kind.limit if exact else 1.0)
    if not exact and not all(map(math.isfinite, found.values())):
        raise UserError(f'not written: the file gives NaN or other detections in {precision}')
    too_large = check.above_limits(found, kind.limit) if exact else []
    # Some weights make float32 itself inexact.
    if too_large and check.above_rounding(reference, compute, shape, kind.limit):
        raise UserError(
            f'not written: the file differs from the model in {", ".join(too_large)}. Report it, or take it by '
            '--no-check'
        )
    return found


def _accuracies(config: Config, weights: str, path: Path) -> dict[str, float] | None:
    """AP of the model and of the file on the test data of the config, if they are there."""
    scores = {}
    for name in ('model', 'file'):
        tested = copy.deepcopy(config)
        if name == 'file':
            tested.model = {'type': 'mmdet_detr.ExportedDetector', 'path': str(path)}
        try:
            ap = average_precision(tested, weights if name == 'model' else None)
        except UserError as error:  # such as images that are missing, or too large for the file
            warn(f'AP is not measured: {error}')
            return None
        if ap is None or 'AP' not in ap:
            warn("AP is not measured: the config's test data are not here")
            return None
        scores[name] = ap['AP']
    return scores
