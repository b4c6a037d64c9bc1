"""Trainings on the CPU with several processes."""

import functools
import json
import socket
from pathlib import Path

import torch
from helpers import ROOT
from processes import Forked
from torch import Tensor

from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

CONFIG = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes_plain.py'
TRAIN = ROOT / 'tools' / 'train.py'
OPTIONS = (
    'train_cfg.val_interval=1000',
    'default_hooks.logger.interval=1',
    'optim_wrapper.optimizer.type=SGD',
    'optim_wrapper.optimizer.lr=0.01',
    'optim_wrapper.clip_grad.max_norm=1e9',
    'model.backbone.norm_eval=True',  # the statistics of a batch are those of a rank
    'model.backbone.norm_cfg.requires_grad=False',
    'model.bbox_head.loss.type=mmdet_detr.BipartiteMatchLoss',
    'model.bbox_head.loss.sync_cls_avg_factor=True',
    'train_dataloader.dataset.pipeline.2.prob=0.0',
    'train_dataloader.sampler.sampler.shuffle=False',
    'randomness.seed=3',
)

WITH_PARTS = f"""
_base_ = {str(CONFIG)!r}
queries = [dict(type='mmdet_detr.QueryGroups', num_queries=8),
    dict(type='mmdet_detr.DenoisingQueries', box_noise=0.0, label_noise=0.0)]
dense = dict(type='mmdet_detr.DenseSupervision')
model = dict(bbox_head=dict(training_queries=queries, dense_supervision=dense))
"""

WITH_MASKS = f"""
_base_ = {str(CONFIG.with_name('detr_tiny_panoptic_shapes.py'))!r}
model = dict(bbox_head=dict(training_queries=[]))  # their noise differs by rank
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01), clip_grad=dict(max_norm=1e9)
)
"""


def write_data(root: Path) -> None:
    """Sixteen images; those that the second of two ranks reads have no boxes in the first batch."""
    for split, count in (('train', 16), ('val', 4)):
        list(write_shapes(root / 'data' / 'shapes', split, count, ShapesOptions()))
    path = root / 'data' / 'shapes' / 'annotations' / 'instances_train.json'
    document = json.loads(path.read_text())
    without = {image['id'] for i, image in enumerate(document['images']) if i % 2 and i < 8}
    document['annotations'] = [a for a in document['annotations'] if a['image_id'] not in without]
    path.write_text(json.dumps(document))
    path = path.with_name('panoptic_train.json')
    document = json.loads(path.read_text())
    for annotation in document['annotations']:
        if annotation['image_id'] in without:
            annotation['segments_info'] = []
    path.write_text(json.dumps(document))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


class Ranks:
    """Runs in one folder with the data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = 0
        self.train = functools.cache(self._train)
        self.config_with_parts = root / 'with_parts.py'
        self.config_with_parts.write_text(WITH_PARTS)
        self.config_with_masks = root / 'with_masks.py'
        self.config_with_masks.write_text(WITH_MASKS)
        write_data(root)

    def new_work_dir(self) -> Path:
        self.number += 1
        return self.root / f'run_{self.number}'

    def start(self, ranks: int, *options: str, work_dir: Path, nodes: int = 1, config: Path = CONFIG) -> list[Forked]:
        """One process for each rank, as a launcher starts them."""
        arguments = [TRAIN, config, '--work-dir', work_dir, '--cfg-options', *OPTIONS, *options]
        if ranks == 1:
            return [Forked(*arguments, cwd=self.root, merge=True)]
        port, a_node = free_port(), ranks // nodes
        world = {'WORLD_SIZE': ranks, 'LOCAL_WORLD_SIZE': a_node, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
        environments = [{**world, 'RANK': rank, 'LOCAL_RANK': rank % a_node} for rank in range(ranks)]
        arguments[2:2] = ['--launcher', 'pytorch']
        return [Forked(*arguments, cwd=self.root, merge=True, **env) for env in environments]

    def _train(
        self, ranks: int, *options: str, nodes: int = 1, config: Path = CONFIG
    ) -> tuple[dict[str, Tensor], str, Path]:
        """Train to the end, once for the same options. Gives weights, output and work_dir."""
        work_dir = self.new_work_dir()
        processes = self.start(ranks, *options, work_dir=work_dir, nodes=nodes, config=config)
        outputs = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * ranks, '\n'.join(outputs)
        path = self.root / (work_dir / 'last_checkpoint').read_text()
        return torch.load(path, weights_only=False)['state_dict'], '\n'.join(outputs), work_dir


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def assert_close(
    one: dict[str, Tensor], other: dict[str, Tensor], start: dict[str, Tensor], tolerance: float = 1e-5
) -> None:
    """The same steps were taken, to 1e-5 of their length and the rounding of the weights that they were added to."""
    for name, value in one.items():
        if value.is_floating_point():
            step, weight = (value - start[name]).norm(), value.norm()
            assert (value - other[name]).norm() <= tolerance * step + 1e-7 * weight, name
