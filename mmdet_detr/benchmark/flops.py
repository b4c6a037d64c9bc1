"""Multiply-adds of a forward pass, with those of attention, which counters miss."""

import contextlib
import io
import logging
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

from .candidates import Candidate
from .inputs import Inputs


def gflops(candidate: Candidate, inputs: Inputs) -> float:
    """Billions of multiply-adds of one forward pass of one image, counted by mmengine's analyzer.

    As in the paper and in most tables, a multiplication with its addition is one operation. The analyzer does not know
    the two operators in which implementations of attention compute its products; they are added here.
    """
    model = candidate.model.eval()
    batch = model.data_preprocessor(inputs.read(), training=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for a whole layer, which no counter opens
    level = logging.getLogger('mmengine').level
    try:
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            analyzer = FlopAnalyzer(_Forward(model, batch['data_samples'][:1]), batch['inputs'][:1])
            analyzer.set_op_handle('aten::scaled_dot_product_attention', _attention)
            analyzer.set_op_handle('aten::baddbmm', _baddbmm)
            analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
            return analyzer.total() / 1e9
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        logging.getLogger('mmengine').setLevel(level)


class _Forward(nn.Module):
    """The network without its losses or its post-processing, as a module of one tensor."""

    def __init__(self, model: nn.Module, samples: list) -> None:
        super().__init__()
        self.model = model
        self.samples = samples

    def forward(self, images: torch.Tensor) -> Any:
        return self.model(images, self.samples, mode='tensor')


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Products of queries (..., Q, C) with keys (..., S, C), and of the weights with values."""
    *batch, num_queries, channels = inputs[0].type().sizes()
    num_keys = inputs[1].type().sizes()[-2]
    value_channels = inputs[2].type().sizes()[-1]
    number = num_queries * num_keys * (channels + value_channels)
    for size in batch:
        number *= size
    return number


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    """A sum plus (B, N, C) x (B, C, M)."""
    batch, rows, channels = inputs[1].type().sizes()
    return batch * rows * channels * inputs[2].type().sizes()[-1]
