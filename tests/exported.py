"""Hand-made model files with the inputs, outputs and metadata of exported ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLASSES = ['circle', 'square', 'sky']
BOXES = [[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5]]  # xyxy in units of the image
SCORES, LABELS = [0.9, 0.6, 0.3], [1, 0, 2]
METADATA = {
    'format_version': 1,
    'mmdet_detr': '0.0.0',
    'config': 'detr',
    'classes': CLASSES,
    'mean': [123.675, 116.28, 103.53],
    'std': [58.395, 57.12, 57.375],
    'channel_order': 'rgb',
    'uint8': False,
    'raw': False,
    'precision': 'float32',
    'resize': {'shortest': 48, 'longest': 90},
    'pad_size_divisor': 16,
    'score_thr': 0.5,
}
PANOPTIC = {'num_things_classes': 2, 'panoptic_score_thr': 0.25, 'min_area': 5}


def write_onnx(
    path: Path, shape: tuple[Any, ...] = ('B', 3, 'H', 'W'), num_masks: int = 0, nan: bool = False, **metadata: object
) -> Path:
    """Write an ONNX file that finds the same three boxes in every image, in units of its size.

    The first mask is where the image is brighter than 0, the second where it is darker, on a grid of 4 x 4 pixels.

    Args:
        path: of the file.
        shape: of ``images``; names are free.
        num_masks: detections with masks, 0 to 3; the third mask is nowhere.
        nan: give NaN as scores of images that are dark in the mean.
        metadata: other than ``METADATA``; without any, ``metadata=None``.
    """
    onnx = pytest.importorskip('onnx')
    from onnx import TensorProto, helper, numpy_helper

    entries = None if metadata.get('metadata', 0) is None else {**METADATA, **metadata}
    uint8 = entries is not None and entries['uint8']
    kind = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
    constants = {
        'fractions': np.array(BOXES, np.float32)[None],
        'base': np.array(SCORES, np.float32)[None],
        'kinds': np.array(LABELS, np.int64)[None],
        'swapped': np.array([1, 0, 1, 0], np.int64),
        'axis': np.array([1], np.int64),
        'channels': np.array([1], np.int64),
        'all': np.array([1, 2, 3], np.int64),
        'zero': np.array(0, np.float32),
        'one': np.array([0], np.int64),
        'signs': np.array([1, -1, 0], np.float32)[:num_masks].reshape(1, -1, 1, 1),
        'nowhere': np.array([0, 0, -5], np.float32)[:num_masks].reshape(1, -1, 1, 1),
    }
    node = helper.make_node
    nodes = [
        node('Cast', ['images'], ['x'], to=TensorProto.FLOAT),
        node('Cast', ['sizes'], ['hw'], to=TensorProto.FLOAT),
        node('Gather', ['hw', 'swapped'], ['whwh'], axis=1),
        node('Unsqueeze', ['whwh', 'axis'], ['units']),
        node('Mul', ['fractions', 'units'], ['boxes']),
        node('ReduceMean', ['x', 'all'], ['mean'], keepdims=0),
        node('Unsqueeze', ['mean', 'axis'], ['means']),
        node('Mul', ['means', 'zero'], ['nothing']),
        node('Add', ['base', 'nothing'], ['certain']),
        node('Sqrt' if nan else 'Abs', ['means'], ['roots']),
        node('Mul', ['roots', 'zero'], ['spoilt']),
        node('Add', ['certain', 'spoilt'], ['scores']),
        node('Cast', ['nothing'], ['nothings'], to=TensorProto.INT64),
        node('Add', ['kinds', 'nothings'], ['labels']),
    ]
    batch = shape[0]
    outputs = [
        helper.make_tensor_value_info('boxes', TensorProto.FLOAT, [batch, 3, 4]),
        helper.make_tensor_value_info('scores', TensorProto.FLOAT, [batch, 3]),
        helper.make_tensor_value_info('labels', TensorProto.INT64, [batch, 3]),
    ]
    if num_masks:
        nodes += [
            node('ReduceMean', ['x', 'channels'], ['grey'], keepdims=1),
            node('AveragePool', ['grey'], ['pooled'], kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1),
            node('Mul', ['pooled', 'signs'], ['signed']),
            node('Add', ['signed', 'nowhere'], ['masks']),
        ]
        outputs.append(helper.make_tensor_value_info('masks', TensorProto.FLOAT, [batch, num_masks, 'h', 'w']))
    inputs = [
        helper.make_tensor_value_info('images', kind, shape),
        helper.make_tensor_value_info('sizes', TensorProto.INT64, [batch, 2]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, 'detector', inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)
    if entries is not None:
        helper.set_model_props(model, {'mmdet_detr': json.dumps(entries)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_openvino(path: Path, **arguments: Any) -> Path:
    """The same as OpenVINO's two files."""
    openvino = pytest.importorskip('openvino')
    onnx = write_onnx(path.with_suffix('.for_openvino.onnx'), **arguments)
    model = openvino.convert_model(onnx)
    if arguments.get('metadata', 0) is not None:
        entries = {**METADATA, **{key: value for key, value in arguments.items() if key in {*METADATA, *PANOPTIC}}}
        model.set_rt_info(json.dumps(entries), 'mmdet_detr')
    openvino.save_model(model, path, compress_to_fp16=False)
    onnx.unlink()
    return path
