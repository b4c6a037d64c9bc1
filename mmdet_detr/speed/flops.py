"""Counts the multiply-adds of a forward pass, including those of fused attention."""

import contextlib
import io
import math
from functools import partial
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn

from .candidates import Candidate
from .inputs import Inputs


def gflops(candidate: Candidate, inputs: Inputs) -> float:
    """Billions of multiply-adds of the network for the first image of a batch, without losses or post-processing."""
    model = candidate.model.eval()
    batch = model.data_preprocessor(inputs.read(), training=False)
    model.forward = partial(model.forward, data_samples=batch['data_samples'][:1], mode='tensor')
    try:  # the analyzer needs a module that takes one tensor
        return multiply_adds(model, batch['inputs'][:1]) / 1e9
    finally:
        del model.forward


def multiply_adds(module: nn.Module, *inputs: Tensor) -> int:
    """Number of multiply-adds of a module, counted by mmengine's analyzer.

    A multiplication with its addition counts once, as in the paper. The analyzer does not know two operators of
    attention, so their counts are added here.
    """
    # Without gradients, PyTorch would compute a transformer layer by one operator that the analyzer cannot count.
    with torch.enable_grad(), contextlib.redirect_stderr(io.StringIO()):
        analyzer = FlopAnalyzer(module, inputs)
        analyzer.set_op_handle('aten::scaled_dot_product_attention', _attention)
        analyzer.set_op_handle('aten::baddbmm', _baddbmm)
        analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
        return int(analyzer.total())


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of queries (..., Q, C) with keys (..., S, C), and of the weights with values (..., S, C')."""
    *batch, num_queries, channels = inputs[0].type().sizes()
    *_, num_keys, value_channels = inputs[2].type().sizes()
    return math.prod(batch) * num_queries * num_keys * (channels + value_channels)


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of (B, N, C) with (B, C, M), added to another tensor."""
    return math.prod(inputs[1].type().sizes()) * inputs[2].type().sizes()[-1]
