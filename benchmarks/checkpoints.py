"""Compare outputs through every layout of checkpoints with the implementation that the layout belongs to.

    python benchmarks/checkpoints.py --out benchmarks/results

For every layout its implementation (tests/foreign.py) makes a complete R50 with random weights, which is saved and
loaded into ours; and ours is converted to the layout and loaded by that implementation. The largest differences of
logits and of boxes (in units of the image) on a batch of two images, one of them padded, go into a Markdown table.
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from rich.progress import track
from torch import Tensor, nn

from mmdet_detr.checkpoints.convert import convert_checkpoint
from mmdet_detr.checkpoints.files import load_from_local

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))
import foreign
from helpers import make_sample

TARGETS = {
    'facebookresearch/detr': 'detr',
    'Hugging Face, own backbone': 'hf',
    'mmdet 3.x': 'mmdet3',
    'mmdet_detr': 'mmdet_detr',
}
SIZE = (480, 640)


def batch() -> tuple[Tensor, list]:
    samples = [make_sample(SIZE), make_sample((352, 500), SIZE)]
    images = torch.randn(2, 3, *SIZE)
    images[1, :, 352:] = 0
    images[1, :, :, 500:] = 0
    return images, samples


def difference(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> str:
    logits, boxes = ((a - b).abs().max().item() for a, b in zip(got, expected, strict=True))
    return f'{logits:.1e}, {boxes:.1e}'


def loaded(path: Path) -> nn.Module:
    """Our R50 with the weights of a file."""
    model = MODELS.build(foreign.R50.config).eval()
    load_checkpoint(model, str(path), strict=True, logger='silent')
    return model


def last_layer(model: nn.Module, images: Tensor, samples: list) -> tuple[Tensor, Tensor]:
    logits, boxes = model(images, samples, mode='tensor')
    return logits[-1], boxes[-1]


def opened_by(implementation: foreign.Foreign, target: str, path: Path) -> None:
    """Load a converted checkpoint with the implementation's own code."""
    if target == 'hf':
        from transformers import DetrForObjectDetection

        opened = DetrForObjectDetection.from_pretrained(path).state_dict()
    else:
        opened = torch.load(path, weights_only=True)['model' if target == 'detr' else 'state_dict']
    missing, unexpected = implementation.model.load_state_dict(opened, strict=False)
    counters = [name for name in missing if not name.endswith('num_batches_tracked')]
    if counters or unexpected:
        raise ValueError(f'{target}: missing {counters}, unexpected {unexpected}')


@torch.no_grad()
def row(layout: str, folder: Path) -> str:
    images, samples = batch()
    theirs, source = foreign.IMPLEMENTATIONS[layout](foreign.R50), folder / 'source.pth'
    torch.save(theirs.state_dict, source)
    model = loaded(source)
    loading = difference(last_layer(model, images, samples), theirs.forward(images, samples))
    target = TARGETS.get(layout)
    if target is None:
        return f'| {layout} | {loading} | | |'
    ours, written = foreign.ours(foreign.R50), folder / target
    torch.save(ours.state_dict, folder / 'ours.pth')
    convert_checkpoint(folder / 'ours.pth', written, target, force=True)
    opened_by(theirs, target, written)
    exporting = difference(theirs.forward(images, samples), ours.forward(images, samples))
    convert_checkpoint(written, folder / 'back.pth', 'mmdet_detr', force=True)
    back = load_from_local(str(folder / 'back.pth'))['state_dict']
    differing = sum(not torch.equal(back[name], value) for name, value in ours.state_dict.items())
    return f'| {layout} | {loading} | `--to {target}`: {exporting} | {differing} of {len(ours.state_dict)} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='folder for checkpoints.md; by default the table is only printed')
    parser.add_argument('--seed', type=int, default=0, help='seed of weights and images')
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    MMLogger.get_current_instance().setLevel('ERROR')  # the reports would break the progress bar
    lines = [
        '| layout | loading: logits, boxes | exporting: logits, boxes | tensors that differ there and back |',
        '| --- | --- | --- | --- |',
    ]
    with tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope('mmdet'):
        lines += [row(layout, Path(folder)) for layout in track(foreign.IMPLEMENTATIONS, 'layouts')]
    command = f'python benchmarks/checkpoints.py --seed {args.seed}'
    lines += ['', f'`{command}`, {platform.machine()}, PyTorch {torch.__version__}, float32.']
    text = '\n'.join(lines) + '\n'
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / 'checkpoints.md').write_text(text)


if __name__ == '__main__':
    main()
