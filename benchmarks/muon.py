"""Time our Muon against PyTorch's on the hidden matrices of the demonstration's network.

    python benchmarks/muon.py

Both move the same matrices (attention as three blocks each, convolutions flattened) in turns on one thread. PyTorch's
orthogonalises them one by one in bfloat16; ONEDNN_MAX_CPU_ISA=AVX2 shows a processor without this type.
"""

import statistics
import time

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from training import ROOT, quietly

from mmdet_detr.engine.muon import Muon, hidden_matrices

ROUNDS = 20


def main() -> None:
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py')
    model = quietly(MODELS.build, config.model)
    matrices = [
        torch.nn.Parameter(part.detach().flatten(1).clone())
        for parameter, blocks in hidden_matrices(model, backbone=True)
        for part in parameter.chunk(blocks)
    ]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    optimizers = {
        'ours': Muon([{'params': matrices, 'blocks': 1, 'momentum': 0.95}], lr=0.0),
        "PyTorch's": torch.optim.Muon(matrices, lr=0.0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(ROUNDS + 1):
        for name, optimizer in optimizers.items():
            start = time.process_time()
            optimizer.step()
            seconds[name].append(time.process_time() - start)
    for name, times in seconds.items():
        print(f'{name}: {1000 * statistics.median(times[1:]):.1f} ms a step, {len(matrices)} matrices')


if __name__ == '__main__':
    main()
