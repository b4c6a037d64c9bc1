"""Measure what each optimization gains: our DETR R50 as it is, and with one thing changed at a time.

    python benchmarks/means.py [--device cpu] [--size 480x640] [--rounds 15] [--out benchmarks/results]

All variants take turns in one process. Writes means_DEVICE.json and means_DEVICE.md.
"""

import argparse
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from mmengine.config import ConfigDict
from rich.progress import Progress
from torch import Tensor, nn

from mmdet_detr.models import TransformerNeck, TransformerOutput
from mmdet_detr.models.frozen_norm import FoldedBatchNorm2d, FoldingConv2d
from mmdet_detr.reports.speed import milliseconds, spread, table
from mmdet_detr.speed.candidates import Candidate, build, read_config
from mmdet_detr.speed.inputs import Inputs
from mmdet_detr.speed.machine import machine
from mmdet_detr.speed.malloc import keep_freed_memory
from mmdet_detr.speed.run import summary
from mmdet_detr.speed.stages import Stages, Trainer, infer

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'
CASES = (('infer', 1), ('train', 2))


def contiguous(candidate: Candidate) -> None:
    candidate.model.channels_last = False
    for parameter in candidate.model.backbone.parameters():
        parameter.data = parameter.data.contiguous()


def not_folded(candidate: Candidate) -> None:
    for module in candidate.model.modules():
        if isinstance(module, FoldingConv2d):
            module.__class__ = nn.Conv2d
        elif isinstance(module, FoldedBatchNorm2d):
            module.__class__ = nn.BatchNorm2d


def neither(candidate: Candidate) -> None:
    contiguous(candidate)
    not_folded(candidate)


def compiled(config: ConfigDict) -> None:
    config.model.neck.compile = True


def checkpointing(config: ConfigDict) -> None:
    config.model.neck.with_cp = config.model.backbone.with_cp = True


def fused(config: ConfigDict) -> None:
    config.optim_wrapper.optimizer.fused = True


def foreach(config: ConfigDict) -> None:
    config.optim_wrapper.clip_grad.foreach = True


def always_masked() -> ExitStack:
    """Let the transformer treat every cell as one that may be padding."""
    transform = TransformerNeck.transform

    def masked(self: TransformerNeck, maps: list[Tensor], cells: list[Tensor] | None) -> TransformerOutput:
        if cells is None:
            cells = [x.new_tensor(x.shape[2:], dtype=torch.long).expand(len(x), 2) for x in maps]
        return transform(self, maps, cells)

    stack = ExitStack()
    stack.enter_context(patch.object(TransformerNeck, 'transform', masked))
    return stack


@dataclass
class Variant:
    """One change of the config, of the built model, or of a function while the model runs."""

    dtype: str = 'float32'
    config: Callable[[ConfigDict], None] | None = None
    model: Callable[[Candidate], None] | None = None
    running: Callable[[], ExitStack] = ExitStack


VARIANTS = {
    'as it is': Variant(),
    'backbone in contiguous format': Variant(model=contiguous),
    'batch norms not folded': Variant(model=not_folded),
    'neither': Variant(model=neither),
    'attention masks without padding too': Variant(running=always_masked),
    'AdamW fused': Variant(config=fused),
    'gradient clipping foreach': Variant(config=foreach),
    'transformer compiled': Variant(config=compiled),
    'gradient checkpointing': Variant(config=checkpointing),
    'bfloat16': Variant('bfloat16'),
    'bfloat16, transformer compiled': Variant('bfloat16', config=compiled),
    'bfloat16, neither channels last nor folded': Variant('bfloat16', model=neither),
}


def variant(name: str, device: str, folder: Path) -> Candidate:
    settings = VARIANTS[name]
    config = read_config(str(CONFIG))
    if settings.config:
        settings.config(config)
    path = folder / f'{list(VARIANTS).index(name)}.py'
    config.dump(path)
    candidate = build(str(path), None, device, getattr(torch, settings.dtype))
    if settings.model:
        settings.model(candidate)
    return candidate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--size', default='480x640', help='HEIGHTxWIDTH of the input')
    parser.add_argument('--rounds', type=int, default=15, help='timed rounds')
    parser.add_argument('--only', nargs='+', choices=VARIANTS, default=list(VARIANTS), help='only these')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    keep_freed_memory()
    folder = ROOT / 'work_dirs' / 'means'
    folder.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    height, width = (int(side) for side in args.size.split('x'))
    rows = []
    with Progress() as progress:
        task = progress.add_task('building', total=len(CASES) * len(args.only) * (args.rounds + 3))
        candidates = {name: variant(name, args.device, folder) for name in args.only}
        for mode, batch in CASES:
            inputs = Inputs((height, width), batch, 8, 80)
            trainers = {name: Trainer(candidate) for name, candidate in candidates.items() if mode == 'train'}
            times: dict[str, list[Stages]] = {name: [] for name in candidates}
            for number_of_round in range(args.rounds + 3):
                for name, candidate in candidates.items():
                    progress.update(task, description=f'{mode}: {name}', advance=1)
                    with VARIANTS[name].running():
                        stages = trainers[name].step(inputs) if trainers else infer(candidate, inputs)
                    if number_of_round >= 3:
                        times[name].append(stages)
            first = times[args.only[0]]
            rows += [
                {'mode': mode, 'batch': batch, 'variant': name}
                | summary(times[name], first, batch, 'model' if mode == 'infer' else None)
                for name in candidates
            ]
    results = {'size': [height, width], 'rounds': args.rounds, 'machine': machine(args.device), 'rows': rows}
    (args.out / f'means_{args.device}.json').write_text(json.dumps(results, indent=1) + '\n')
    (args.out / f'means_{args.device}.md').write_text(markdown(results))
    print(markdown(results))


def markdown(results: dict) -> str:
    text = []
    for mode, batch in CASES:
        lines = []
        for row in results['rows']:
            if row['mode'] == mode:
                stages = [milliseconds(values) for values in row['stages'].values()]
                ratio = spread([1 / row['times_first'][i] for i in (0, 2, 1)], 2)
                lines.append([row['variant'], *stages, ratio])
                head = ('variant', *(f'{stage} ms' for stage in row['stages']), 'time over the first')
        title = {'infer': 'Inference', 'train': 'Training'}[mode]
        text.append(f'**{title}, {results["size"][0]} x {results["size"][1]}, batch {batch}**\n\n{table(head, lines)}')
    text.append(
        f'`python benchmarks/means.py`, {results["machine"]}; {results["rounds"]} rounds in turns, '
        'median (quartiles).\n'
    )
    return '\n'.join(text)


if __name__ == '__main__':
    main()
