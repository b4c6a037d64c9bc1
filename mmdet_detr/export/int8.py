"""Convolutions in int8: scales from images, weights by channel; the transformer and the heads stay in float32."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from ..errors import ConfigError
from ..inference import Detector, UnreadableImageError
from ..inference.sources import Images, find_input
from .deployable import Deployable
from .formats import Shape, require

CALIBRATION_IMAGES = 100


def calibration_inputs(
    detector: Detector, module: Deployable, folder: Path, shape: Shape
) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of a file for the images of a folder, one at a time, padded and repeated to what is fixed.

    Raises:
        ConfigError: not one of them can be read and fits.
    """
    found = find_input(str(folder))
    paths: Sequence[str | Path] = found.paths if isinstance(found, Images) else []
    step = max(1, len(paths) // CALIBRATION_IMAGES)
    anything = False
    for path in track(list(paths)[::step][:CALIBRATION_IMAGES], 'calibrating', transient=True):
        try:
            inputs = detector.prepare(detector.read(path))
        except UnreadableImageError:
            continue
        height, width = inputs['data_samples'].img_shape[:2]
        if height > (shape.height or height) or width > (shape.width or width):
            continue
        anything = True
        batch = module.model.data_preprocessor({'inputs': [inputs['inputs']], 'data_samples': [inputs['data_samples']]})
        images = batch['inputs']
        if module.uint8:
            images = (images * module.std + module.mean).round().clamp(0, 255).byte()
        right, below = (
            (fixed or given) - given
            for fixed, given in ((shape.width, images.shape[3]), (shape.height, images.shape[2]))
        )
        images = torch.nn.functional.pad(images, (0, right, 0, below)).repeat(shape.batch or 1, 1, 1, 1)
        yield {'images': images.numpy(), 'sizes': torch.tensor([[height, width]] * len(images)).numpy()}
    if not anything:
        raise ConfigError(f'{folder} has no images to calibrate int8 with that can be read and fit')


class Reader:
    """Inputs as ONNX Runtime's calibration asks for them."""

    def __init__(self, inputs: Iterator[dict[str, np.ndarray]]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.inputs, None)


def in_backbone(operator: str, name: str) -> bool:
    """Whether an operator is a convolution of the backbone."""
    return operator == 'Conv' and '/backbone/' in name


def quantise(
    inputs: Iterator[dict[str, np.ndarray]],
    path: Path,
    out: Path,
    chosen: Callable[[str, str], bool] = in_backbone,
) -> None:
    """Quantise an ONNX file.

    Args:
        inputs: to choose the scales by.
        path: of the file.
        out: to write.
        chosen: whether a node is computed in int8, by its operator and its name.
    """
    quantization = require('onnxruntime.quantization')
    onnx = require('onnx')

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / 'prepared.onnx'
        quantization.quant_pre_process(path, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared, load_external_data=False).graph.node
        nodes = [node for node in nodes if chosen(node.op_type, node.name)]
        quantization.quantize_static(
            prepared,
            out,
            Reader(inputs),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=[node.name for node in nodes],
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    model = onnx.load(out)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]  # ONNX Runtime names all that it knows
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, out)
