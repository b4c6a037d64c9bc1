"""Time and memory of the mask part of DETR R50 against the official order of work and transformers, same weights.

    python benchmarks/masks.py [--device cuda] [--size 480x640] [--batch 2] [--objects 20] [--rounds 5] [--out FOLDER]

Feature maps, memory and hidden states are made once; each implementation then makes masks of them and, in training,
scores those of the matched queries and computes gradients, in turns. "prediction" ends with binary masks and a panoptic
map of each image, as many queries as objects being certain of something. Ours makes masks of these queries alone, as
with a score_thr for instances; the others make those of all 100, as their code does. Each memory is the
peak of a process of its own (of the device on CUDA). Writes masks_cpu.json and masks_cpu.md (or _cuda).
"""

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / 'tests'))
from plain_masks import PlainMaskHead, Sizes, plain_instance_masks, plain_mask_losses, plain_panoptic

import mmdet_detr  # noqa: F401
from mmdet_detr.models import MaskHead, TransformerOutput
from mmdet_detr.models.detr_head import Detections
from mmdet_detr.models.masks.mask_loss import matched_masks
from mmdet_detr.models.matching.assignment import Solution
from mmdet_detr.reports.speed import table
from mmdet_detr.speed.machine import machine
from mmdet_detr.speed.memory import status_mib

ROOT = Path(__file__).parents[1]
OURS, OFFICIAL, TRANSFORMERS = 'mmdet_detr', 'official order of work', 'transformers'
QUERIES, CHANNELS, HEADS, CLASSES, THINGS = 100, 256, 8, 133, 80
LEVELS = (256, 512, 1024)
# Our parts in the order of transformers' parameters.
ATTENTION = ('bbox_attention.q_linear', 'bbox_attention.k_linear')
REFINED = (f'{part}{i + 2 * (part != "adapter")}' for i in (1, 2, 3) for part in ('adapter', 'lay', 'gn'))
CONVOLUTIONS = ('lay1', 'gn1', 'lay2', 'gn2', *REFINED, 'out_lay')


class Inputs:
    """What the mask part gets from the detector, for images that fill the batch."""

    def __init__(self, size: tuple[int, int], batch: int, objects: int, device: str) -> None:
        torch.manual_seed(0)
        self.size, self.objects = size, objects
        grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in (4, 8, 16, 32)]
        self.feats = [
            torch.rand(batch, channels, *grid, device=device) for channels, grid in zip(LEVELS, grids, strict=False)
        ]
        cells = grids[-1][0] * grids[-1][1]
        source, memory = (torch.randn(batch, cells, CHANNELS, device=device) for _ in range(2))
        hidden = torch.randn(6, batch, QUERIES, CHANNELS, device=device)
        self.output = TransformerOutput(hidden, source, memory, None, [grids[-1]])
        self.tensors = [*self.feats, source, memory, hidden]
        rows, columns = np.mgrid[: size[0], : size[1]]
        masks = np.stack(
            [(rows - size[0] * i / objects) ** 2 + (columns - size[1] / 2) ** 2 < 60**2 for i in range(objects)]
        )
        self.samples = []
        for _ in range(batch):
            shapes = {'img_shape': size, 'ori_shape': size, 'batch_input_shape': size}
            sample = DetDataSample(metainfo=shapes)
            sample.gt_instances = InstanceData(masks=BitmapMasks(masks.astype(np.uint8), *size))
            self.samples.append(sample)
        pairs = torch.arange(batch * objects, device=device)
        first = 5 * batch * QUERIES  # of the last layer
        queries = first + pairs // objects * QUERIES + pairs % objects
        self.matches = Solution(queries, pairs, np.ones((batch, objects), bool), np.zeros((6, batch)))

    def train(self) -> None:
        for tensor in self.tensors:
            tensor.grad = None
            tensor.requires_grad_(True)

    def maps(self) -> tuple[Tensor, Tensor]:
        """Projected features and memory (B, C, h, w)."""
        return tuple(  # type: ignore[return-value]
            x.transpose(1, 2).unflatten(2, self.output.grid_sizes[0]) for x in (self.output.source, self.output.memory)
        )


class Ours:
    def __init__(self, head: MaskHead) -> None:
        self.head = head

    def step(self, inputs: Inputs) -> dict[str, Tensor]:
        return self.head.loss(inputs.feats, inputs.output, inputs.matches, inputs.samples)

    def predict(self, inputs: Inputs) -> None:
        batch = len(inputs.samples)
        device = inputs.output.memory.device
        scores = torch.zeros(batch, QUERIES, device=device)
        scores[:, : inputs.objects] = 0.95
        labels = torch.arange(QUERIES, device=device).expand(batch, -1) % CLASSES
        found = [
            InstanceData(queries=torch.arange(inputs.objects, device=device), labels=labels[0, : inputs.objects])
            for _ in range(batch)
        ]
        self.head.predict(inputs.feats, inputs.output, Detections(found, scores, labels, CLASSES), inputs.samples)


class AllQueries:
    """Masks of all queries, full-size masks of the matched ones."""

    def logits(self, inputs: Inputs) -> Tensor:
        raise NotImplementedError

    def step(self, inputs: Inputs) -> dict[str, Tensor]:
        logits = self.logits(inputs)
        matched = matched_masks(inputs.output.hidden, inputs.matches, inputs.samples)
        of_queries = logits[:, : inputs.objects].flatten(0, 1)
        return plain_mask_losses(of_queries, [matched.masks], inputs.size, float(matched.num_boxes))

    def predict(self, inputs: Inputs) -> None:
        logits = self.logits(inputs)
        for image in logits:
            scores = torch.zeros(QUERIES, device=image.device)
            scores[: inputs.objects] = 0.95
            sizes = Sizes(inputs.size, inputs.size, inputs.size)
            plain_instance_masks(image, sizes)
            plain_panoptic(image.cpu(), scores.cpu(), torch.arange(QUERIES), set(range(THINGS)), sizes)


class Official(AllQueries):
    def __init__(self, head: MaskHead) -> None:
        self.head = PlainMaskHead(LEVELS, CHANNELS, HEADS).to(next(head.parameters()).device)
        self.head.load_state_dict(head.state_dict())

    def logits(self, inputs: Inputs) -> Tensor:
        source, memory = inputs.maps()
        padding = torch.zeros(len(source), *source.shape[2:], dtype=torch.bool, device=source.device)
        return self.head(source, memory, inputs.output.hidden[-1], padding, inputs.feats)


class Transformers(AllQueries):
    """The two modules of ``DetrForSegmentation`` that make masks."""

    def __init__(self, head: MaskHead) -> None:
        from transformers.models.detr import modeling_detr

        self.attention = modeling_detr.DetrMHAttentionMap(CHANNELS, HEADS)
        self.convolutions = modeling_detr.DetrMaskHeadSmallConv(
            input_channels=CHANNELS + HEADS,
            fpn_channels=list(LEVELS[::-1]),
            hidden_size=CHANNELS,
        )
        ours = head.state_dict()
        for module, parts in ((self.attention, ATTENTION), (self.convolutions, CONVOLUTIONS)):
            values = [ours[f'{part}.{name}'] for part in parts for name in ('weight', 'bias')]
            module.load_state_dict(dict(zip(module.state_dict(), values, strict=True)))
            module.to(values[0].device)

    def logits(self, inputs: Inputs) -> Tensor:
        source, memory = inputs.maps()
        maps = self.attention(inputs.output.hidden[-1], memory)
        masks = self.convolutions(features=source, attention_masks=maps, fpn_features=inputs.feats[::-1])
        return masks.view(len(source), QUERIES, *masks.shape[-2:])


CLASSES_OF = {OURS: Ours, OFFICIAL: Official, TRANSFORMERS: Transformers}


def built(name: str, device: str) -> Ours | AllQueries:
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build({'type': 'mmdet_detr.MaskHead'}).to(device)
    return CLASSES_OF[name](head)


def run(mode: str, part: Ours | AllQueries, inputs: Inputs) -> list[float]:
    """A step; gives the losses in training."""
    if mode == 'prediction':
        with torch.no_grad():
            part.predict(inputs)
        return []
    inputs.train()
    losses = part.step(inputs)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    return [loss.item() for loss in losses.values()]


def seconds_of(mode: str, part: Ours | AllQueries, inputs: Inputs) -> float:
    start = time.perf_counter()
    run(mode, part, inputs)
    if inputs.feats[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mib(mode: str, name: str, arguments: tuple) -> float | None:
    """MiB that a step needs beside inputs and weights, in a process of its own; None where memory is too small."""
    torch.set_num_threads(1)
    device = arguments[-1]
    inputs, part = Inputs(*arguments), built(name, device)
    before = status_mib('VmRSS') if device == 'cpu' else torch.cuda.memory_allocated() / 2**20
    if device == 'cpu':  # fail here, and do not let the system end other processes
        available = int(re.search(r'MemAvailable:\s+(\d+)', Path('/proc/meminfo').read_text())[1]) * 2**10
        limit = int(status_mib('VmSize') * 2**20 + 0.9 * available)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        run(mode, part, inputs)
    except RuntimeError as error:
        if 'memory' not in str(error):
            raise
        return None
    return (
        status_mib('VmHWM') - before
        if device == 'cpu'
        else (torch.cuda.max_memory_allocated() / 2**20 - before / 2**20)
    )


def measure(arguments: argparse.Namespace) -> dict:
    size = tuple(int(side) for side in arguments.size.split('x'))
    given = (size, arguments.batch, arguments.objects, arguments.device)
    parts = {name: built(name, arguments.device) for name in CLASSES_OF}
    small = Inputs((size[0] // 4, size[1] // 4), *given[1:])
    losses = {name: run('training', part, small) for name, part in parts.items()}
    for name, values in losses.items():
        np.testing.assert_allclose(values, losses[OFFICIAL], rtol=1e-4, err_msg=name)
    rows = []
    for mode in ('training', 'prediction'):
        memory = {}
        for name in parts:
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                memory[name] = pool.apply(peak_mib, (mode, name, given))
        inputs = Inputs(*given)
        times: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(arguments.rounds + 1):
            for name in (name for name in parts if memory[name] is not None):
                times[name].append(seconds_of(mode, parts[name], inputs))
                print(f'{mode}, {name}: {times[name][-1]:.2f} s', file=sys.stderr)
        rows += [{'mode': mode, 'name': name, 'seconds': times[name][1:], 'mib': memory[name]} for name in parts]
    return {'size': size, 'batch': arguments.batch, 'objects': arguments.objects, 'losses': losses, 'rows': rows}


def markdown(results: dict) -> str:
    lines = []
    ours = {row['mode']: row for row in results['rows'] if row['name'] == OURS}
    for row in results['rows']:
        first = ours[row['mode']]
        if row['mib'] is None:
            lines.append([row['mode'], row['name'], '-', '-', 'more than there is', '-'])
            continue
        ratios = [theirs / own for theirs, own in zip(row['seconds'], first['seconds'], strict=True)]
        lines.append(
            [
                row['mode'],
                row['name'],
                f'{statistics.median(row["seconds"]):.2f}',
                f'{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})',
                f'{row["mib"]:.0f}',
                f'{row["mib"] / first["mib"]:.1f}',
            ]
        )
    heads = ['', 'mask part', 'seconds', 'times ours', 'MiB', 'times ours']
    size = 'x'.join(map(str, results['size']))
    rounds = len(results['rows'][0]['seconds'])
    note = f'{size} pixels, batch {results["batch"]}, {results["objects"]} objects an image, {rounds} rounds in turns'
    return f'{table(heads, lines)}\n`{results["command"]}`, {results["machine"]}. {note}; medians and ranges.\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--size', default='480x640', help='HEIGHTxWIDTH (default: 480x640)')
    parser.add_argument('--batch', type=int, default=2, help='images (default: 2)')
    parser.add_argument('--objects', type=int, default=20, help='in an image (default: 20)')
    parser.add_argument('--rounds', type=int, default=5, help='timed rounds (default: 5)')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    arguments = parser.parse_args()
    if arguments.device == 'cpu':
        torch.set_num_threads(1)
    results = {
        'command': f'python benchmarks/masks.py {" ".join(sys.argv[1:])}'.strip(),
        'machine': machine(arguments.device),
        **measure(arguments),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f'masks_{arguments.device}.json'
    path.write_text(json.dumps(results, indent=1) + '\n')
    path.with_suffix('.md').write_text(markdown(results))
    print(markdown(results))


if __name__ == '__main__':
    main()
