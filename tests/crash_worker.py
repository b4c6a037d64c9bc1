"""One life of a training run that ``test_crash.py`` kills."""

import time
from pathlib import Path

from helpers import shapes_config
from mmengine.fileio import LocalBackend
from mmengine.runner import Runner

OPTIONS = {
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 1,
    'train_dataloader.dataset.type': 'mmdet_detr.RobustCocoDataset',
    'train_dataloader.sampler': {
        '_delete_': True,
        'type': 'mmdet_detr.SeededSampler',
        'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
    },
    'default_hooks.checkpoint.type': 'mmdet_detr.AtomicCheckpointHook',
    'default_hooks.checkpoint.interval': 5,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.checkpoint.save_best': 'coco/bbox_mAP',
    'custom_hooks': [{'type': 'mmdet_detr.ReproducibleHook'}, {'type': 'EMAHook', 'momentum': 0.1}],
    'model.neck.dropout': 0.1,
    'train_cfg.val_interval': 25,
    'randomness': {'seed': 5},
}


def slow_put(self: LocalBackend, content: bytes, path: str) -> None:
    """A disk that takes its time: room for a kill in the middle of a file."""
    with open(path, 'wb') as file:
        for start in range(0, len(content), 2**19):
            file.write(content[start : start + 2**19])
            file.flush()
            time.sleep(0.01)


def live(shapes: str, work_dir: str, iterations: int) -> None:
    """Train to the end, from the last checkpoint where there is one."""
    LocalBackend.put = slow_put
    options = {**OPTIONS, 'train_cfg.max_iters': iterations, 'resume': True}
    Runner.from_cfg(shapes_config(Path(shapes), Path(work_dir), **options)).train()
