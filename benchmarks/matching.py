"""Time the loss step (matching, losses, backward) of our head against mmdet's and transformers', for the same outputs.

    python benchmarks/matching.py [--threads 1] [--turns 30] [--out benchmarks/results]

All implementations get the same logits and boxes (Q=100, K=80, L=6) and must agree on the loss to 1e-5. They take
turns in one process: a first step, whose code and data are in no cache, and five more. Prints medians and quartiles and
the memory at the peak of a step, and writes them as JSON and Markdown. On a GPU benchmarks/cuda.py runs the same.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from rich.progress import track
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import mmdet_detr  # noqa: F401  (before mmdet.models)
from mmdet_detr.models import BipartiteMatchLoss
from mmdet_detr.models.matching.targets import Targets, targets_of
from mmdet_detr.reports.speed import table
from mmdet_detr.speed.machine import machine
from mmdet_detr.speed.run import spread

NUM_LAYERS, NUM_QUERIES, NUM_CLASSES = 6, 100, 80
IMAGE = (800, 1066)  # height, width
SETTINGS = ((2, 8), (8, 8), (8, 60))  # images, objects an image
STEPS_A_TURN = 5
Step = Callable[[Tensor, Tensor, list[DetDataSample]], dict[str, Tensor]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=1, help='threads of PyTorch')
    parser.add_argument('--turns', type=int, default=30, help='turns of each implementation')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results'), help='folder of the JSON')
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
    return lambda logits, boxes, samples: loss(logits, boxes, targets(samples))


def targets(samples: list[DetDataSample]) -> Targets:
    return targets_of([s.gt_instances for s in samples], [s.metainfo for s in samples], NUM_CLASSES)


SOFTMAX = {'type': 'CrossEntropyLoss', 'bg_cls_weight': 0.1, 'class_weight': 1.0, 'loss_weight': 1.0}
FOCAL = {'type': 'FocalLoss', 'use_sigmoid': True, 'gamma': 2.0, 'alpha': 0.25, 'loss_weight': 2.0}


def with_head(head_type: str, loss_cls: dict, class_cost: dict) -> Step:
    """The loss of one of mmdet's heads, or of our batched form of it. A sigmoid head has no output for "no object"."""
    box_costs = [
        {'type': 'BBoxL1Cost', 'weight': 5.0, 'box_format': 'xywh'},
        {'type': 'IoUCost', 'iou_mode': 'giou', 'weight': 2.0},
    ]
    assigner = {'type': 'HungarianAssigner', 'match_costs': [class_cost, *box_costs]}
    config = {'type': head_type, 'num_classes': NUM_CLASSES, 'loss_cls': {**loss_cls}}
    head = MODELS.build({**config, 'train_cfg': {'assigner': assigner}})

    def step(logits: Tensor, boxes: Tensor, samples: list[DetDataSample]) -> dict[str, Tensor]:
        instances, metas = [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
        return head.loss_by_feat(logits[..., : head.cls_out_channels], boxes, instances, metas)

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
        goals = targets(samples)
        labels = [
            {'class_labels': goals.labels[i, valid], 'boxes': goals.boxes[i, valid]}
            for i, valid in enumerate(goals.valid)
        ]
        total, _losses, _ = ForObjectDetectionLoss(logits[-1], labels, logits.device, boxes[-1], config, logits, boxes)
        return {'loss': total}

    return step


def loss_and_backward(step: Step, logits: Tensor, boxes: Tensor, samples: list[DetDataSample]) -> float:
    logits.grad = boxes.grad = None
    total = sum(value for name, value in step(logits, boxes, samples).items() if 'loss' in name)  # mmengine sums these
    total.backward()
    return total.detach()


def timed(step: Step, *batch: Any) -> float:
    """Milliseconds of one loss with its backward."""
    synchronise = torch.cuda.synchronize if batch[0].is_cuda else lambda: None
    synchronise()
    start = time.perf_counter()
    loss_and_backward(step, *batch)
    synchronise()
    return 1000 * (time.perf_counter() - start)


def peak_mib(step: Step, *batch: Any) -> float:
    """MiB that PyTorch allocates on top of the batch, at most at a time."""
    if batch[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        loss_and_backward(step, *batch)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    batch[0].grad = batch[1].grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss_and_backward(step, *batch)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    clock = 'start_ns' if hasattr(events[0], 'start_ns') else 'start_us'  # torch 2.1
    events.sort(key=lambda event: getattr(event, clock)())
    balance = itertools.accumulate(event.nbytes() for event in events)
    return max(balance) / 2**20


def copies_to_host(step: Step, *batch: Any) -> int | None:
    """Copies from the device to the host in one step; None on the CPU."""
    if not batch[0].is_cuda:
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        loss_and_backward(step, *batch)
        torch.cuda.synchronize()
    return sum('DtoH' in event.name for event in profiler.events())


def measure(steps: dict[str, Step], batch: tuple, turns: int, description: str) -> dict[str, dict[str, list[float]]]:
    """Times of the first and of the following steps of every turn, by implementation."""
    times: dict[str, dict[str, list[float]]] = {name: {'first': [], 'next': []} for name in steps}
    for _ in track(range(turns), description=description):
        for name, step in steps.items():  # in turns, so that a slow moment of the machine hits all of them
            times[name]['first'].append(timed(step, *batch))
            times[name]['next'].append(statistics.median(timed(step, *batch) for _ in range(STEPS_A_TURN)))
    return times


def implementations() -> dict[str, dict[str, Step]]:
    """The implementations of each loss by their names. The first one is ours, and the others are compared with it."""
    init_default_scope('mmdet')
    probability, focal_cost = {'type': 'ClassificationCost', 'weight': 1.0}, {'type': 'FocalLossCost', 'weight': 2.0}
    batched = 'mmdet_detr.BatchedConditionalDETRHead'
    softmax = {
        'mmdet_detr DETRHead': ours(),
        'mmdet DETRHead': with_head('DETRHead', SOFTMAX, probability),
        'mmdet_detr BatchedDETRHead': with_head('mmdet_detr.BatchedDETRHead', SOFTMAX, probability),
        'transformers DETR': transformers_(),
    }
    focal = {
        'mmdet_detr BatchedConditionalDETRHead': with_head(batched, FOCAL, focal_cost),
        'mmdet ConditionalDETRHead': with_head('ConditionalDETRHead', FOCAL, focal_cost),
    }
    return {'softmax': {name: step for name, step in softmax.items() if step}, 'focal': focal}


def compare(
    loss: str,
    steps: dict[str, Step],
    num_images: int,
    num_objects: int,
    device: str,
    turns: int,
    fail: Callable[[str, Exception], None],
) -> list[dict[str, Any]]:
    """A row for each implementation of one loss, on one batch.

    Args:
        loss: its name.
        steps: the implementations; the first is what the others are compared with.
        num_images: images in the batch.
        num_objects: objects of each image.
        device: 'cpu' or 'cuda'.
        turns: turns of each implementation.
        fail: called with an implementation that cannot run or gives another loss than the first, and the reason.
    """
    batch = random_batch(num_images, num_objects, device)
    values: dict[str, float] = {}
    for name, step in steps.items():
        try:
            value = loss_and_backward(step, *batch).item()
            expected = next(iter(values.values()), value)
            if abs(value - expected) > 1e-5 * abs(value):
                raise ValueError(f'the loss is {value}, that of the first implementation is {expected}')
            values[name] = value
        except Exception as error:  # mmcv may have no operators, for example
            fail(name, error)
    steps = {name: steps[name] for name in values}
    reference = next(iter(values), '')
    times = measure(steps, batch, turns, f'{loss}, {num_images} images x {num_objects} objects')
    rows = []
    for name, step in steps.items():
        row = {'loss': loss, 'images': num_images, 'objects': num_objects, 'implementation': name}
        for kind in ('next', 'first'):
            ours_ms, own_ms = times[reference][kind], times[name][kind]
            median, low, high = spread(own_ms)
            row[f'{kind}_ms'] = round(median, 2)
            row[f'{kind}_ms_quartiles'] = [round(low, 2), round(high, 2)]
            ratios = (b / a for a, b in zip(ours_ms, own_ms, strict=True))
            row[f'{kind}_times_ours'] = round(statistics.median(ratios), 2)
        row['peak_mib'] = round(peak_mib(step, *batch), 2)
        row['copies_to_host'] = copies_to_host(step, *batch)
        rows.append(row)
    return rows


def stop(implementation: str, error: Exception) -> None:
    raise SystemExit(f'matching: {implementation}: {error}') from error


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    for (loss, steps), setting in itertools.product(implementations().items(), SETTINGS):
        rows += compare(loss, steps, *setting, 'cpu', args.turns, stop)
    result = {
        'machine': machine('cpu'),
        'command': ' '.join(['python', 'benchmarks/matching.py', *sys.argv[1:]]),
        'turns': args.turns,
        'rows': rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'matching_cpu_{args.threads}_threads'
    path.with_suffix('.json').write_text(json.dumps(result, indent=1) + '\n')
    path.with_suffix('.md').write_text(page(result))
    print(page(result))


def page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    about = (
        f'{result["machine"]}, `{result["command"]}`. '
        f'All implementations take turns, {result["turns"]} each, and agree on the loss to 1e-5. A turn is a first '
        'step, whose code and data are in no cache, and five more; the median of those counts. The '
        'table has medians over the turns, with quartiles, and medians of ratios. MiB is what PyTorch allocates in '
        'the step, at most at a time. SciPy solves large batches of ours on all cores, whatever the number of threads.'
    )
    return f'# The loss step: matching, losses, backward\n\n{about}\n\n{table_of(result["rows"])}'


def table_of(rows: list[dict[str, Any]]) -> str:
    """Rows of :func:`compare` as a table."""
    on_device = any(row['copies_to_host'] is not None for row in rows)
    head = ['images x objects', 'implementation', 'ms', 'times ours', 'first step, ms', 'times ours', 'MiB']
    lines = []
    for row in rows:
        low, high = row['next_ms_quartiles']
        setting = [f'{row["images"]} x {row["objects"]}', row['implementation'], f'{row["next_ms"]} ({low} to {high})']
        numbers = ('next_times_ours', 'first_ms', 'first_times_ours', 'peak_mib')
        copies = [str(row['copies_to_host'])] if on_device else []
        lines.append([*setting, *(str(row[number]) for number in numbers), *copies])
    return table([*head, 'copies to the host'] if on_device else head, lines)


if __name__ == '__main__':
    main()
