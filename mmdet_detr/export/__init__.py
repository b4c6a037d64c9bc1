"""A trained DETR as a file for other runtimes: ONNX, OpenVINO, torch.export and TorchScript."""

from .export import Exported, export
from .exported_detector import ExportedDetector

__all__ = ['Exported', 'ExportedDetector', 'export']
