"""Write a trained model into a file of another format, after comparing the two."""

import copy
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..average_precision import average_precision
from ..errors import UserError
from ..inference import load
from ..models.frozen_norm import fold_for_good
from ..runs import find_checkpoint, find_config
from . import check, int8
from .deployable import Deployable
from .formats import FORMATS, Format, Shape, format_of, open_file
from .metadata import describe

RUNTIME = Path(__file__).with_name('runtime.py')
RUNTIME_NAME = 'detr_runtime.py'


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
        checked: compare the file with the model before it takes its name; in bf16 and int8, also their AP on the
            config's test data, if they are there.
        force: overwrite ``out``.

    Raises:
        UserError: something of this is not possible, or the file differs from the model by more than rounding does.
    """
    out = Path(out)
    precision = 'int8' if int8_images is not None else 'bfloat16' if bf16 else 'float32'
    kind = _format(out, to, precision)
    if int8_images is not None and bf16:
        raise UserError('choose one of --int8 and --bf16')
    if out.exists() and not force:
        raise UserError(f'{out} exists: overwrite it by --force')
    config, weights = _config_and_weights(Path(model), checkpoint)
    detector = load(weights, config, 'cpu')
    reference = Deployable(detector.model, raw=raw, uint8=uint8, num_masks=masks)
    module = copy.deepcopy(reference)
    fold_for_good(module.model.backbone)
    module.autocast = bf16 and kind.name != 'openvino'  # which is told when it compiles the file
    if masks is not None and (masks < 1 or module.model.mask_head is None):
        raise UserError(f'--masks {masks}: ' + ('give one mask at least' if masks < 1 else 'this model has no masks'))
    metadata = describe(detector, module, config, Path(weights), precision)
    metadata['shape'] = [shape.batch, shape.height, shape.width]
    quantise = None
    if int8_images is not None:
        inputs = int8.calibration_inputs(detector, module, Path(int8_images))
        quantise = partial(int8.quantise, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export_') as folder:
        plain, described, complete = (Path(folder, name, out.name) for name in ('plain', 'described', 'complete'))
        for path in (plain, described, complete):
            path.parent.mkdir()
        kind.write(module, shape, plain, opset, quantise)
        kind.stamp(plain, described, json.dumps(metadata))
        found = scores = None
        if checked:
            found = _compare(reference, described, kind, shape, precision)
            metadata['difference'] = found
            if precision != 'float32' and not raw:
                scores = _accuracies(config, weights, described)
                metadata |= {'ap': scores} if scores else {}
        kind.stamp(described, complete, json.dumps(metadata))
        files = [out, *(out.with_name(file.name) for file in complete.parent.iterdir() if file.name != out.name)]
        for file in files[::-1]:
            os.replace(complete.parent / file.name, file)
    if kind.name in ('onnx', 'openvino') and not raw:
        files.append(out.with_name(RUNTIME_NAME))
        shutil.copyfile(RUNTIME, files[-1])
    return Exported(files, metadata, found, scores)


def _format(out: Path, to: str | None, precision: str) -> Format:
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
        raise UserError(f'no such checkpoint: {weights}')
    return Config.fromfile(path), str(weights)


def _compare(reference: Deployable, path: Path, kind: Format, shape: Shape, precision: str) -> dict[str, float]:
    compute, _ = open_file(path)
    exact = precision == 'float32'
    found = check.differences(reference, compute, shape, kind.limit if exact else 1.0)
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
        ap = average_precision(tested, weights if name == 'model' else None)
        if ap is None or 'AP' not in ap:
            return None
        scores[name] = ap['AP']
    return scores
