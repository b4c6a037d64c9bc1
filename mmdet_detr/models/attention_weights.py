"""The weights of every attention of a forward pass, for pictures of what a DETR looks at."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .transformer import Attention


@contextmanager
def attention_weights(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect the attention weights of a forward pass.

    The model computes as always, on the fused kernel, which gives no weights: they are computed beside it, here only.

    Example::

        with torch.no_grad(), attention_weights(model) as weights:
            model(images, samples, mode='predict')
        weights['neck.decoder.layers.5.multihead_attn']  # (B, heads, Q, S)

    Args:
        model: any module with a :class:`TransformerNeck` in it.

    Yields:
        Weights (B, heads, Q, S) by the name of the attention in the model, without dropout; each row sums to 1, and
        padding has 0. S cells of the feature map lie row by row; several levels follow one another. Empty before the
        first pass; a later pass replaces the weights of an earlier one. In training, decoders with several sets of
        queries keep the weights of the last set's self-attention.
    """
    weights: dict[str, Tensor] = {}

    def collect(name: str) -> Any:
        def before_forward(attention: Attention, inputs: tuple) -> None:
            with torch.no_grad():
                weights[name] = attention.weights(*inputs)

        return before_forward

    handles = [
        module.register_forward_pre_hook(collect(name))
        for name, module in model.named_modules()
        if isinstance(module, Attention)
    ]
    # A compiled transformer does not call the hooks of its parts.
    eager = torch.compiler.set_stance('force_eager') if hasattr(torch.compiler, 'set_stance') else nullcontext()
    try:
        with eager:
            yield weights
    finally:
        for handle in handles:
            handle.remove()
