"""One process of several, as tests start it."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from helpers import random_sample, targets_from, tiny_detr_config
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmdet_detr.datasets import SeededSampler
from mmdet_detr.engine import AtomicCheckpointHook, ReproducibleHook, SkipNonFiniteHook, atomic_checkpoint_hook
from mmdet_detr.evaluation import PanopticMetric
from mmdet_detr.models import BipartiteMatchLoss

COUNTS = (5, 0)  # boxes of the one image of each rank


def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 1, 6, 6), torch.rand(2, 1, 6, 4) * 0.4 + 0.1


def sample_of(rank: int):
    torch.manual_seed(rank)
    return random_sample((64, 64), None, COUNTS[rank], num_classes=5)


def train_on_rank(rank: int, folder: str) -> None:
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    init_default_scope('mmdet')
    losses = BipartiteMatchLoss()(*predictions(), targets_from([sample_of(rank)]))
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(MODELS.build(tiny_detr_config()))
    sum(model(torch.randn(1, 3, 64, 64), [sample_of(rank)], mode='loss').values()).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(SkipNonFiniteHook()._before_step)
    before = model.module.neck.query_embed.weight.clone()
    if rank == 1:
        model.module.neck.query_embed.weight.grad[0, 0] = float('nan')  # Sharding shows it to one rank only.
    optimizer.step()
    saved = {
        'losses': {name: value.item() for name, value in losses.items()},
        'gradients': gradients,
        'skipped': torch.equal(before, model.module.neck.query_embed.weight),
    }
    torch.save(saved, f'{folder}/{rank}.pth')
    dist.barrier()
    os._exit(0)  # the end of a process with DDP sometimes waits for the threads of gloo for ever


def save_on_rank(rank: int, folder: str) -> None:
    """Save with a slow disk, and note what is there when this rank could leave."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    to_disk = atomic_checkpoint_hook._to_disk
    atomic_checkpoint_hook._to_disk = lambda path: (time.sleep(0.5), to_disk(path))

    def save(out_dir: str, name: str, *arguments: object, **options: object) -> None:
        if rank == 0:
            torch.save({}, Path(out_dir) / name)

    log = SimpleNamespace(info=print)
    hub = SimpleNamespace(runtime_info={}, update_info=lambda *entry: None)
    runner = SimpleNamespace(work_dir=folder, logger=log, message_hub=hub, save_checkpoint=save)
    hook = AtomicCheckpointHook()
    hook.before_train(runner)
    saved = hook.save_now(runner, 0, 1)
    pointer = Path(folder) / 'last_checkpoint'
    there = saved.exists() and pointer.exists() and Path(pointer.read_text()) == saved
    (Path(folder) / f'there_{rank}').write_text(saved.name if there else 'nothing')
    dist.destroy_process_group()


def seed_on_rank(rank: int, folder: str) -> None:
    """Note the order that a rank's sampler gives, where ranks have seeds of their own."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    config = {'type': 'DefaultSampler', 'shuffle': True}
    sampler = SeededSampler(range(8), config, seed=1)
    batches = SimpleNamespace(sampler=sampler)
    loader = SimpleNamespace(sampler=None, batch_sampler=batches, dataset=range(8))
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=loader), seed=5 + rank)
    ReproducibleHook().before_train(runner)
    torch.save({'order': [int(index) for index in sampler], 'seed': sampler.seed}, f'{folder}/{rank}.pth')
    dist.destroy_process_group()


def evaluate_on_rank(rank: int, folder: str, ann_file: str, meta: dict, values: list) -> None:
    """Evaluate three maps (H, W) of images 1 to 3 on two ranks, the last of which a sampler has filled up."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    metric = PanopticMetric(ann_file)
    metric.dataset_meta = meta
    for index in ((0, 2), (1, 0))[rank]:
        metric.process({}, [{'img_id': index + 1, 'pred_panoptic_seg': {'sem_seg': values[index][None]}}])
    torch.save(metric.evaluate(3), f'{folder}/{rank}.pth')
    dist.destroy_process_group()
