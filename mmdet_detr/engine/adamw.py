"""AdamW on its fastest kernel."""

from typing import Any

import torch

from ..registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``, fused where this PyTorch has a fused kernel for the parameters' device.

    Takes the arguments of ``torch.optim.AdamW``; ``fused`` or ``foreach`` given in a config are obeyed.
    """

    def __init__(self, params: Any, **kwargs: Any) -> None:
        params = list(params)
        if 'fused' not in kwargs and 'foreach' not in kwargs:
            try:
                super().__init__(params, fused=True, **kwargs)
                return
            except RuntimeError:  # PyTorch 2.1 has none for the CPU
                pass
        super().__init__(params, **kwargs)
