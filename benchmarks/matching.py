"""Time the loss step (matching, losses, backward) of our head against mmdet's and transformers', for the same outputs.

    python benchmarks/matching.py [--threads 1] [--repeats 30] [--out benchmarks/results]

All implementations get the same logits and boxes (Q=100, K=80, L=6), take turns in one process, and must agree on the
losses to 1e-4. Prints a table of medians with the 10th and 90th percentile and writes it as JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from rich.progress import track
from torch import Tensor

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.models import BipartiteMatchLoss
from mmdet_detr.models.bipartite_match_loss import targets_of

NUM_LAYERS, NUM_QUERIES, NUM_CLASSES = 6, 100, 80
IMAGE = (800, 1066)  # height, width
SETTINGS = ((2, 8), (8, 8), (8, 60))  # images, objects an image
Step = Callable[[Tensor, Tensor, list[DetDataSample]], dict[str, Tensor]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=1, help='threads of PyTorch')
    parser.add_argument('--repeats', type=int, default=30, help='timed steps of each implementation')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'), help='folder of matching_DEVICE.json')
    return parser.parse_args()


def random_batch(num_images: int, num_objects: int, device: str) -> tuple[Tensor, Tensor, list[DetDataSample]]:
    logits = torch.randn(NUM_LAYERS, num_images, NUM_QUERIES, NUM_CLASSES + 1)
    boxes = torch.cat((torch.rand(NUM_LAYERS, num_images, NUM_QUERIES, 2), torch.rand((*logits.shape[:3], 2)) * 0.3), 3)
    samples = []
    for _ in range(num_images):
        top_left, size = torch.rand(num_objects, 2) * 0.7, torch.rand(num_objects, 2) * 0.25 + 0.03
        pixels = torch.cat((top_left, top_left + size), 1) * torch.tensor([IMAGE[1], IMAGE[0]] * 2)
        sample = DetDataSample(metainfo={'img_shape': IMAGE, 'batch_input_shape': IMAGE})
        sample.gt_instances = InstanceData(bboxes=pixels, labels=torch.randint(NUM_CLASSES, (num_objects,)))
        samples.append(sample.to(device))
    return logits.to(device).requires_grad_(), boxes.to(device).requires_grad_(), samples


def ours() -> Step:
    loss = BipartiteMatchLoss()
    return lambda logits, boxes, samples: loss(logits, boxes, targets_of(samples))


def mmdets() -> Step:
    head = MODELS.build(
        {
            'type': 'DETRHead',
            'num_classes': NUM_CLASSES,
            'loss_cls': {
                'type': 'CrossEntropyLoss',
                'bg_cls_weight': 0.1,
                'use_sigmoid': False,
                'loss_weight': 1.0,
                'class_weight': 1.0,
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
        }
    )

    def step(logits: Tensor, boxes: Tensor, samples: list[DetDataSample]) -> dict[str, Tensor]:
        instances, metas = [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
        return head.loss_by_feat(logits, boxes, instances, metas)

    return step


def transformers_() -> Step | None:
    """``DetrForObjectDetection``'s loss, or None where transformers is not installed."""
    try:
        from transformers import DetrConfig
        from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss
    except ImportError:
        return None
    config = DetrConfig(
        num_labels=NUM_CLASSES, auxiliary_loss=True, decoder_layers=NUM_LAYERS, use_timm_backbone=False, backbone=None
    )

    def step(logits: Tensor, boxes: Tensor, samples: list[DetDataSample]) -> dict[str, Tensor]:
        targets = targets_of(samples)
        labels = [
            {'class_labels': targets.labels[i, :count], 'boxes': targets.boxes[i, :count]}
            for i, count in enumerate(targets.counts)
        ]
        total, _losses, _ = ForObjectDetectionLoss(logits[-1], labels, logits.device, boxes[-1], config, logits, boxes)
        return {'total': total}

    return step


def timed(step: Step, logits: Tensor, boxes: Tensor, samples: list[DetDataSample]) -> tuple[float, float]:
    """Milliseconds of one loss with its backward, and its value."""
    logits.grad = boxes.grad = None
    synchronise = torch.cuda.synchronize if logits.is_cuda else lambda: None
    synchronise()
    start = time.perf_counter()
    total = sum(step(logits, boxes, samples).values())
    total.backward()
    synchronise()
    return 1000 * (time.perf_counter() - start), total.item()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    init_default_scope('mmdet')
    built = {'mmdet_detr': ours(), 'mmdet': mmdets(), 'transformers': transformers_()}
    steps = {name: step for name, step in built.items() if step}
    rows = []
    for num_images, num_objects in SETTINGS:
        batch = random_batch(num_images, num_objects, args.device)
        values = {name: timed(step, *batch)[1] for name, step in steps.items()}  # also the warm-up
        for name, value in values.items():
            if abs(value - values['mmdet_detr']) > 1e-4 * abs(value):
                raise SystemExit(f'matching: {name} gives a loss of {value}, mmdet_detr of {values["mmdet_detr"]}')
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in track(range(args.repeats), description=f'{num_images} images x {num_objects} objects'):
            for name, step in steps.items():  # in turns, so that the machine's moods meet all alike
                times[name].append(timed(step, *batch)[0])
        for name in steps:
            deciles = statistics.quantiles(times[name], n=10)
            ratios = [theirs / mine for theirs, mine in zip(times[name], times['mmdet_detr'], strict=True)]
            rows.append(
                {
                    'images': num_images,
                    'objects': num_objects,
                    'implementation': name,
                    'median_ms': round(statistics.median(times[name]), 2),
                    'p10_ms': round(deciles[0], 2),
                    'p90_ms': round(deciles[-1], 2),
                    'times_ours': round(statistics.median(ratios), 2),
                }
            )
            print(
                '{images} x {objects:2d} {implementation:13s} {median_ms:7.2f} ms '
                '({p10_ms:.2f} to {p90_ms:.2f}), {times_ours:.2f} x ours'.format(**rows[-1])
            )
    machine = torch.cuda.get_device_name() if args.device == 'cuda' else platform.processor() or platform.machine()
    result = {'machine': machine, 'threads': args.threads, 'torch': torch.__version__, 'rows': rows}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f'matching_{args.device}.json').write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
