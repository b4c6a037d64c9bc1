"""The formats of a file: how a module is written into one, and how a file computes."""

import contextlib
import importlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, one_line
from .deployable import Deployable
from .metadata import KEY

Compute = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]  # of images and sizes, the outputs in their order
Quantise = Callable[[Path, Path], None]  # reads an ONNX file and writes one in int8
INPUTS = ('images', 'sizes')
EXTRA_FILE = f'{KEY}.json'  # in the files of PyTorch


@dataclass(frozen=True)
class Shape:
    """What is fixed in a file; None is free."""

    batch: int | None = None
    height: int | None = None
    width: int | None = None

    def example(self, uint8: bool) -> tuple[Tensor, Tensor]:
        """A batch to trace with, of which all images but the first are padded."""
        size = (self.batch or 2, 3, self.height or 96, self.width or 128)
        images = torch.randint(0, 256, size, dtype=torch.uint8) if uint8 else torch.randn(size)
        sizes = torch.tensor([size[2:]] * size[0])
        sizes[1:] -= sizes[1:] // 4
        return images, sizes

    def free_axes(self) -> dict[int, str]:
        """Names of the axes of the images that are free."""
        fixed = {0: self.batch, 2: self.height, 3: self.width}
        return {axis: name for (axis, length), name in zip(fixed.items(), ('B', 'H', 'W'), strict=True) if not length}


def require(package: str) -> Any:
    """Import an optional package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.split('.')[0]
        raise ConfigError(f'{name} is missing: pip install {name} ({one_line(error)})') from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of every shape that they follow; the check afterwards is what counts."""
    names = ('torch.onnx', 'torch.export', 'onnxscript', 'onnx_ir')
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for logger, _ in before:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in before:
                logger.setLevel(level)


def _write_onnx(module: Deployable, shape: Shape, path: Path, opset: int, quantise: Quantise | None) -> None:
    """By the exporter that traces TorchScript, or by dynamo's where PyTorch has lost it."""
    require('onnx')
    example = shape.example(module.uint8)
    names: dict[str, Any] = {'input_names': list(INPUTS), 'output_names': module.outputs, 'opset_version': opset}
    parameters = signature(torch.onnx.export).parameters
    target = path if quantise is None else path.with_name('float.onnx')
    with _quiet(), torch.no_grad():
        if 'dynamo' not in parameters or importlib.util.find_spec('torch.onnx._internal.torchscript_exporter'):
            names |= {'dynamo': False} if 'dynamo' in parameters else {}
            torch.onnx.export(module, example, str(target), dynamic_axes=_dynamic_axes(module, shape), **names)
        else:
            require('onnxscript')
            program = torch.onnx.export(module, example, dynamic_shapes=_dynamic_shapes(shape), dynamo=True, **names)
            assert program is not None
            program.save(str(target))
    if quantise is not None:
        quantise(target, path)
        target.unlink()


def _dynamic_axes(module: Deployable, shape: Shape) -> dict[str, dict[int, str]]:
    free = shape.free_axes()
    batch = {axis: name for axis, name in free.items() if axis == 0}
    axes = {'images': free, **{name: dict(batch) for name in ('sizes', *module.outputs)}}
    if 'masks' in axes:
        axes['masks'] |= {axis: f'mask_{name}' for axis, name in free.items() if axis}
    return axes


def _dynamic_shapes(shape: Shape) -> dict[str, dict[int, Any]]:
    free = dict.fromkeys(shape.free_axes(), torch.export.Dim.DYNAMIC)
    return {'images': free, 'sizes': {axis: dim for axis, dim in free.items() if axis == 0}}


def _stamp_onnx(source: Path, target: Path, text: str) -> None:
    onnx = require('onnx')
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {KEY: text})
    onnx.save(model, target)


def _open_onnx(path: Path, threads: int | None) -> tuple[Compute, str | None]:
    ort = require('onnxruntime')
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def compute(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        return session.run(None, dict(zip(INPUTS, (images, sizes), strict=True)))

    return compute, session.get_modelmeta().custom_metadata_map.get(KEY)


def _write_openvino(module: Deployable, shape: Shape, path: Path, opset: int, quantise: Quantise | None) -> None:
    ov = require('openvino')
    onnx = path.with_name('traced.onnx')
    _write_onnx(module, shape, onnx, opset, quantise)
    ov.save_model(ov.convert_model(onnx), path, compress_to_fp16=False)
    onnx.unlink()


def _stamp_openvino(source: Path, target: Path, text: str) -> None:
    ov = require('openvino')
    model = ov.Core().read_model(source)
    model.set_rt_info(text, KEY)
    ov.save_model(model, target, compress_to_fp16=False)


def _open_openvino(path: Path, threads: int | None) -> tuple[Compute, str | None]:
    ov = require('openvino')
    core = ov.Core()
    model = core.read_model(path)
    text = model.get_rt_info(KEY).value if model.has_rt_info(KEY) else None
    precision = json.loads(text).get('precision') if text else None
    # Without the hint, processors with AMX compute in bfloat16.
    options: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'bf16' if precision == 'bfloat16' else 'f32'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(model, 'CPU', options)

    def compute(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        return [np.array(output) for output in compiled([images, sizes]).values()]

    return compute, text


def _write_torchscript(module: Deployable, shape: Shape, path: Path, opset: int, quantise: Quantise | None) -> None:
    with _quiet(), torch.no_grad():
        torch.jit.trace(module, shape.example(module.uint8), check_trace=False).save(str(path))


def _stamp_torchscript(source: Path, target: Path, text: str) -> None:
    torch.jit.save(torch.jit.load(str(source)), str(target), _extra_files={EXTRA_FILE: text})


def _open_torchscript(path: Path, threads: int | None) -> tuple[Compute, str | None]:
    files = {EXTRA_FILE: ''}
    module = torch.jit.load(str(path), map_location='cpu', _extra_files=files)
    return _of_module(module, threads), _decoded(files)


def _write_pt2(module: Deployable, shape: Shape, path: Path, opset: int, quantise: Quantise | None) -> None:
    if not hasattr(torch.compiler, 'is_exporting'):
        raise ConfigError(f'torch.export of PyTorch {torch.__version__} cannot do it: it takes 2.7 or newer')
    with _quiet(), torch.no_grad():
        example = shape.example(module.uint8)
        program = torch.export.export(module, example, dynamic_shapes=_dynamic_shapes(shape), strict=False)
        torch.export.save(program, path)


def _stamp_pt2(source: Path, target: Path, text: str) -> None:
    with _quiet():
        torch.export.save(torch.export.load(source), target, extra_files={EXTRA_FILE: text})


def _open_pt2(path: Path, threads: int | None) -> tuple[Compute, str | None]:
    files = {EXTRA_FILE: ''}
    with _quiet():
        module = torch.export.load(path, extra_files=files).module()
    return _of_module(module, threads), _decoded(files)


def _decoded(files: dict[str, str]) -> str | None:
    value: str | bytes = files[EXTRA_FILE]
    return value.decode() if isinstance(value, bytes) else value or None


def _of_module(module: nn.Module, threads: int | None) -> Compute:
    if threads:
        torch.set_num_threads(threads)

    def compute(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [x.numpy() for x in module(torch.from_numpy(images), torch.from_numpy(sizes))]

    return compute


@dataclass(frozen=True)
class Format:
    """How files of a kind are written, get their metadata, and compute."""

    name: str
    suffix: str
    write: Callable[[Deployable, Shape, Path, int, Quantise | None], None]
    stamp: Callable[[Path, Path, str], None]  # copies a file, with new metadata
    open: Callable[[Path, int | None], tuple[Compute, str | None]]
    computes: tuple[str, ...]  # in these types
    limit: float  # of the difference in logits or scores that rounding makes in float32


FORMATS = (  # ONNX Runtime is nearer to float64 than PyTorch is, and further away from PyTorch than OpenVINO
    Format('onnx', '.onnx', _write_onnx, _stamp_onnx, _open_onnx, ('float32', 'int8'), 2e-4),
    Format(
        'openvino',
        '.xml',
        _write_openvino,
        _stamp_openvino,
        _open_openvino,
        ('float32', 'bfloat16', 'int8'),
        1e-4,
    ),
    Format('pt2', '.pt2', _write_pt2, _stamp_pt2, _open_pt2, ('float32', 'bfloat16'), 1e-4),
    Format(
        'torchscript', '.pt', _write_torchscript, _stamp_torchscript, _open_torchscript, ('float32', 'bfloat16'), 1e-4
    ),
)


SUFFIXES = tuple(kind.suffix for kind in FORMATS)


def format_of(path: Path) -> Format:
    """The format of a file by its suffix.

    Raises:
        ConfigError: it is none of ours.
    """
    for kind in FORMATS:
        if path.suffix == kind.suffix:
            return kind
    raise ConfigError(f'{path}: the name of an exported model ends in {", ".join(SUFFIXES)}')


def open_file(path: Path, threads: int | None = None) -> tuple[Compute, dict[str, Any]]:
    """What an exported file computes, and its metadata.

    Args:
        path: by its suffix ONNX (``.onnx``), OpenVINO (``.xml``), torch.export (``.pt2``) or TorchScript (``.pt``).
        threads: to compute with; None leaves it to the runtime.

    Raises:
        ConfigError: there is no such file, it is no file of ours, or its runtime is missing.
    """
    if not path.is_file():
        raise ConfigError(f'no such file: {path}')
    kind = format_of(path)
    try:
        compute, text = kind.open(path, threads)
    except ConfigError:
        raise
    except Exception as error:  # runtimes raise anything on broken files
        raise ConfigError(f'{path} cannot be read: {one_line(error)[:300]}') from error
    try:
        return compute, json.loads(text or '')
    except ValueError:
        raise ConfigError(f'{path} holds no metadata of mmdet_detr: write it by its export') from None
