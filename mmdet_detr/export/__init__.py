"""A trained DETR as a file for other runtimes: ONNX, OpenVINO, torch.export and TorchScript."""

from .exported_detector import ExportedDetector
from .exporter import Exported, export
from .formats import Shape

__all__ = ['Exported', 'ExportedDetector', 'Shape', 'export']
