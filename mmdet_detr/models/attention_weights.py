"""The weights of every attention of a forward pass, for pictures of what a DETR looks at."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .transformer import Attention


class AttentionWeights(Mapping[str, Tensor]):
    """Weights (B, heads, Q, S) by the name of an attention, computed when they are read.

    Only what goes into every attention is kept, because the weights of an encoder grow with the square of its cells:
    1,050 x 1,050 x 8 an image of 800 x 1333 pixels, sixteen times as many at half the stride.
    """

    def __init__(self) -> None:
        self._calls: dict[str, tuple[Attention, tuple]] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.rows(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    @torch.no_grad()
    def rows(self, name: str, rows: slice | Sequence[int] = slice(None)) -> Tensor:
        """The weights (B, heads, R, S) of some queries of an attention; by default of all.

        Args:
            name: of the attention.
            rows: indices (R,) of queries: cells in an encoder, object queries in a decoder.

        Raises:
            KeyError: there is no such attention, or it did not run.
        """
        attention, (query, key, value, mask) = self._calls[name]
        if mask is not None and mask.shape[2] > 1:
            mask = mask[:, :, rows]
        return attention.weights(query[:, rows], key, value, mask)

    def keep(
        self, name: str, attention: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Any = None
    ) -> None:
        """Remember a call of an attention."""
        query, key, value = (x.detach() for x in (query, key, value))
        self._calls[name] = attention, (query, key, value, mask)


@contextmanager
def attention_weights(model: nn.Module) -> Iterator[AttentionWeights]:
    """Collect the attention weights of a forward pass.

    The model computes as always, on the fused kernel, which gives no weights: they are computed beside it, when they
    are read, inside the context or after it.

    Example::

        with torch.no_grad(), attention_weights(model) as weights:
            model(images, samples, mode='predict')
        weights['neck.decoder.layers.5.multihead_attn']  # (B, heads, Q, S)
        weights.rows('neck.encoder.layers.5.self_attn', [0, 1])  # (B, heads, 2, S), of the first two cells

    Args:
        model: any module with a :class:`TransformerNeck` in it.

    Yields:
        Weights (B, heads, Q, S) by the name of the attention in the model, without dropout; each row sums to 1, and
        padding has 0. S cells of the feature map lie row by row; several levels follow one another. Empty before the
        first pass; a later pass replaces the weights of an earlier one. In training, decoders with several sets of
        queries keep the weights of the last set's self-attention. They are those of the parameters that the model has
        when they are read.
    """
    weights = AttentionWeights()

    def collect(name: str) -> Any:
        return lambda attention, inputs: weights.keep(name, attention, *inputs)

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
