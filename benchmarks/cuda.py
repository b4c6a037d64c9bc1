"""Measure on a CUDA machine what a CPU cannot tell: speed, memory, copies to the host, the threshold of the solver.

    python benchmarks/cuda.py --out benchmarks/results [--minutes 10]

Builds our DETR R50 and mmdet's with random weights and lets them take turns at 800x1333 in training and inference, in
float32 and in bfloat16 autocast, as they are and with our transformer compiled. Times the loss step against mmdet's and
transformers', counts the copies of one training step, and times the two solvers. Needs no compiled operators, no data
and no network. The most important steps come first. cuda.json and cuda.md are written after each step; they list what
failed, and what there was no time for.

Exit code: 0 if everything was measured, 1 if something was left out, 2 if nothing can be measured here. With
``--device cpu`` and a small ``--config``, ``--peer`` and ``--size`` the same steps run without a GPU.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py'
PEER = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'


def image_size(text: str) -> tuple[int, int]:
    height, width = (int(side) for side in text.split('x'))
    return height, width


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='cuda', description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the results')
    parser.add_argument('--minutes', type=float, default=10, help='time for everything (default: 10)')
    parser.add_argument('--rounds', type=int, default=10, help='timed rounds of every comparison (default: 10)')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='default: cuda')
    parser.add_argument('--size', type=image_size, default=(800, 1333), help='HEIGHTxWIDTH (default: 800x1333)')
    parser.add_argument('--config', default=str(CONFIG), help='our detector (default: DETR R50)')
    parser.add_argument('--peer', default=PEER, help=f'the detector beside it (default: {PEER})')
    parser.add_argument('--no-compile', action='store_true', help='leave the compiled transformer out')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        import torch

        if args.device == 'cuda' and not torch.cuda.is_available():
            raise RuntimeError(f'PyTorch {torch.__version__} finds no CUDA device')
        from benchmarks.cuda_steps import Measurement, page
        from mmdet_detr.speed.malloc import keep_freed_memory
    except (ImportError, RuntimeError) as error:  # mmdet_detr raises the second where mmdet is missing
        print(f'cuda: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    keep_freed_memory()
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        measurement = Measurement(args, Path(folder))
        measurement.run()
    print(page(measurement.results))
    print(f'written to {args.out}: cuda.json, cuda.md')
    return 1 if measurement.results['left_out'] else 0


if __name__ == '__main__':
    sys.path[0] = str(ROOT)  # PyTorch imports NVIDIA's package `cuda`, and would find this file in the folder before
    sys.exit(main())
