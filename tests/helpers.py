"""What several tests share: samples, small models, and plain slow references of matcher and loss."""

import contextlib
import copy
import http.server
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_detr.models.matching.targets import Targets, targets_of

ROOT = Path(__file__).parents[1]
BCCD = ROOT.parent / 'shared' / 'data' / 'bccd'  # photographs, not part of the project
PANOPTIC_SAMPLE = ROOT.parent / 'shared' / 'data' / 'coco_panoptic_sample' / 'sample_data'  # two photographs, likewise
DETR_CONFIGS = sorted((ROOT / 'configs' / 'detr').glob('*.py'))


@contextlib.contextmanager
def loopback_server(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine only; gives the address."""

    def handler(*arguments: object) -> http.server.SimpleHTTPRequestHandler:
        return http.server.SimpleHTTPRequestHandler(*arguments, directory=str(folder))

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()


def shapes_config(root: Path, work_dir: Path, **options: object) -> Config:
    """The demonstration's config on the shapes in a folder, with batches of eight and a line of log an iteration."""
    name = str(work_dir).replace('/', '_')  # mmengine keeps loggers and visualizers by name for the whole process
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py')
    config.merge_from_dict(
        {
            'train_dataloader.batch_size': 8,
            'default_hooks.logger.interval': 1,
            'work_dir': str(work_dir),
            'experiment_name': name,
            'visualizer.name': name,
            **copy.deepcopy(options),  # merging empties it of _delete_
        }
    )
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.dataset.data_root = f'{root}/'
    config.val_evaluator.ann_file = f'{root}/annotations/instances_val.json'
    return config


def make_sample(
    image_size: tuple[int, int],
    batch_size: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
    labels: Tensor | None = None,
    scale: float = 1.0,
) -> DetDataSample:
    """A sample of an image (h, w) padded to (H, W), with xyxy boxes in pixels of the network's input."""
    h, w = image_size
    metainfo = {
        'img_shape': image_size,
        'ori_shape': (round(h / scale), round(w / scale)),
        'scale_factor': (scale, scale),
        'batch_input_shape': batch_size or image_size,
        'pad_shape': batch_size or image_size,
        'img_path': 'image.jpg',
        'img_id': 0,
    }
    sample = DetDataSample(metainfo=metainfo)
    boxes = torch.zeros(0, 4) if boxes is None else boxes
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else labels
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    return sample


def random_sample(
    image_size: tuple[int, int], batch_size: tuple[int, int] | None, num_boxes: int, num_classes: int
) -> DetDataSample:
    h, w = image_size
    top_left = torch.rand(num_boxes, 2) * 0.6
    bottom_right = top_left + 0.05 + torch.rand(num_boxes, 2) * 0.35
    boxes = torch.cat((top_left, bottom_right), dim=1) * torch.tensor([w, h, w, h])
    return make_sample(image_size, batch_size, boxes, torch.randint(num_classes, (num_boxes,)))


def targets_from(samples: list[DetDataSample], num_classes: int = 80) -> Targets:
    return targets_of([s.gt_instances for s in samples], [s.metainfo for s in samples], num_classes)


def tiny_detr_config(num_classes: int = 5, **neck: int | float) -> Config:
    """A DETR of R18 width and depth 2 + 3, without dropout."""
    return Config(
        {
            'type': 'mmdet_detr.DETR',
            'data_preprocessor': {'type': 'DetDataPreprocessor', 'pad_size_divisor': 1},
            'backbone': {
                'type': 'ResNet',
                'depth': 18,
                'base_channels': 8,
                'out_indices': (3,),
                'norm_cfg': {'type': 'BN', 'requires_grad': False},
                'norm_eval': True,
            },
            'neck': {
                'type': 'mmdet_detr.TransformerNeck',
                'in_channels': 64,
                'embed_dims': 32,
                'num_queries': 12,
                'num_heads': 4,
                'num_encoder_layers': 2,
                'num_decoder_layers': 3,
                'feedforward_channels': 48,
                'dropout': 0.0,
                **neck,
            },
            'bbox_head': {'type': 'mmdet_detr.DETRHead', 'num_classes': num_classes, 'embed_dims': 32},
            'test_cfg': {'max_per_img': 12},
        }
    )


def mmdet_config(ours: Config) -> Config:
    """mmdet's own DETR of the same widths."""
    neck = ours.neck
    attention = {'embed_dims': neck.embed_dims, 'num_heads': neck.num_heads, 'dropout': 0.0, 'batch_first': True}
    ffn = {
        'embed_dims': neck.embed_dims,
        'feedforward_channels': neck.feedforward_channels,
        'num_fcs': 2,
        'ffn_drop': 0.0,
        'act_cfg': {'type': 'ReLU', 'inplace': True},
    }
    return Config(
        {
            'type': 'DETR',
            'num_queries': neck.num_queries,
            'data_preprocessor': ours.data_preprocessor,
            'backbone': ours.backbone,
            'neck': {
                'type': 'ChannelMapper',
                'in_channels': [neck.in_channels],
                'kernel_size': 1,
                'out_channels': neck.embed_dims,
                'act_cfg': None,
                'norm_cfg': None,
                'num_outs': 1,
            },
            'encoder': {
                'num_layers': neck.num_encoder_layers,
                'layer_cfg': {'self_attn_cfg': attention, 'ffn_cfg': ffn},
            },
            'decoder': {
                'num_layers': neck.num_decoder_layers,
                'layer_cfg': {'self_attn_cfg': attention, 'cross_attn_cfg': attention, 'ffn_cfg': ffn},
                'return_intermediate': True,
            },
            'positional_encoding': {'num_feats': neck.embed_dims // 2, 'normalize': True},
            'bbox_head': {
                'type': 'DETRHead',
                'num_classes': ours.bbox_head.num_classes,
                'embed_dims': neck.embed_dims,
                'loss_cls': {
                    'type': 'CrossEntropyLoss',
                    'bg_cls_weight': 0.1,
                    'use_sigmoid': False,
                    'loss_weight': 1.0,
                    'class_weight': 1.0,
                },
                'loss_bbox': {'type': 'L1Loss', 'loss_weight': 5.0},
                'loss_iou': {'type': 'GIoULoss', 'loss_weight': 2.0},
            },
            'train_cfg': {
                'assigner': {
                    'type': 'HungarianAssigner',
                    'match_costs': [
                        {'type': 'ClassificationCost', 'weight': 1.0},
                        {'type': 'BBoxL1Cost', 'weight': 5.0, 'box_format': 'xywh'},
                        {'type': 'IoUCost', 'iou_mode': 'giou', 'weight': 2.0},
                    ],
                }
            },
            'test_cfg': {'max_per_img': 12},
        }
    )


def padded_batch(num_classes: int = 5) -> tuple[Tensor, list[DetDataSample]]:
    """Three images (3, 3, 96, 128), two of them padded with zeros, and their samples."""
    samples = [
        random_sample((96, 128), (96, 128), 4, num_classes),
        random_sample((70, 128), (96, 128), 0, num_classes),
        random_sample((96, 65), (96, 128), 7, num_classes),
    ]
    images = torch.randn(3, 3, 96, 128)
    for image, sample in zip(images, samples, strict=True):
        height, width = sample.img_shape
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images, samples


def reference_cost(logits: np.ndarray, boxes: np.ndarray, labels: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Matching cost (Q, T) of one image in float64, pair by pair; boxes are normalised cxcywh."""
    cost = np.zeros((len(logits), len(labels)))
    for q, t in itertools.product(range(len(logits)), range(len(labels))):
        probability = np.exp(logits[q] - logits[q].max())
        probability /= probability.sum()
        cost[q, t] = -probability[labels[t]] + 5 * np.abs(boxes[q] - targets[t]).sum() - 2 * giou(boxes[q], targets[t])
    return cost


def giou(a: np.ndarray, b: np.ndarray) -> float:
    """Generalised IoU (arXiv 1902.09630) of two cxcywh boxes."""
    a1, a2, b1, b2 = a[:2] - a[2:] / 2, a[:2] + a[2:] / 2, b[:2] - b[2:] / 2, b[:2] + b[2:] / 2
    inter = np.prod(np.clip(np.minimum(a2, b2) - np.maximum(a1, b1), 0, None))
    hull = np.prod(np.maximum(a2, b2) - np.minimum(a1, b1))
    union = np.prod(a2 - a1) + np.prod(b2 - b1) - inter
    return inter / union - (hull - union) / hull


def reference_losses(
    logits: np.ndarray, boxes: np.ndarray, labels: list[np.ndarray], targets: list[np.ndarray]
) -> dict[str, float]:
    """The losses of the paper, layer by layer, image by image, query by query, in float64.

    Args:
        logits: (L, B, Q, K+1).
        boxes: (L, B, Q, 4) normalised cxcywh.
        labels: (T,) of each image.
        targets: (T, 4) normalised cxcywh of each image.
    """
    num_layers, num_images, num_queries, num_outputs = logits.shape
    num_boxes = max(1, sum(map(len, labels)))
    losses = {}
    for layer in range(num_layers):
        classification = weight_sum = l1 = iou = 0.0
        for image in range(num_images):
            goal = [num_outputs - 1] * num_queries
            for query, target in reference_matches(
                reference_cost(logits[layer, image], boxes[layer, image], labels[image], targets[image])
            ):
                goal[query] = labels[image][target]
                l1 += np.abs(boxes[layer, image, query] - targets[image][target]).sum()
                iou += 1 - giou(boxes[layer, image, query], targets[image][target])
            for query in range(num_queries):
                row = logits[layer, image, query]
                weight = 0.1 if goal[query] == num_outputs - 1 else 1.0
                classification += weight * (np.log(np.exp(row - row.max()).sum()) + row.max() - row[goal[query]])
                weight_sum += weight
        prefix = '' if layer == num_layers - 1 else f'd{layer}.'
        losses[f'{prefix}loss_cls'] = classification / weight_sum
        losses[f'{prefix}loss_bbox'] = 5 * l1 / num_boxes
        losses[f'{prefix}loss_iou'] = 2 * iou / num_boxes
    return losses


def reference_matches(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (query, target) of least total cost, by trying every one-to-one matching."""
    rows, columns = cost.shape
    if rows < columns:
        return [(query, target) for target, query in reference_matches(cost.T)]
    best = min(
        itertools.permutations(range(rows), columns),
        key=lambda chosen: sum(cost[row, column] for column, row in enumerate(chosen)),
    )
    return [(row, column) for column, row in enumerate(best)]
