"""Measure how much of a training batch is padding, in batches drawn at random and by aspect ratio.

    python benchmarks/padding.py [--images 2000]

Sends blank images through the training pipeline of the COCO config and pads the batches as the data preprocessor does.
The mix of sizes stands for COCO, where most photographs are 640 pixels long, landscape or portrait. Writes padding.md.
"""

import argparse
from pathlib import Path

import numpy as np
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from rich.progress import track
from torch.utils.data import BatchSampler, SequentialSampler

import mmdet_detr  # noqa: F401  (registers the transforms)
from mmdet_detr.reports.speed import table

ROOT = Path(__file__).parents[1]
SIZES = [(640, 480)] * 4 + [(640, 427)] * 3 + [(480, 640)] * 2 + [(640, 640)]  # (width, height)


class Sizes:
    """A data set of sizes only: the sampler reads nothing else."""

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def get_data_info(self, index: int) -> dict[str, int]:
        width, height = self.sizes[index]
        return {'width': width, 'height': height}


def padding(shapes: list[tuple[int, int]], batches: list[list[int]]) -> float:
    """The share of all pixels of the batches that no image covers."""
    covered = padded = 0
    for batch in batches:
        rows, columns = zip(*(shapes[index] for index in batch), strict=True)
        covered += sum(h * w for h, w in zip(rows, columns, strict=True))
        padded += len(batch) * max(rows) * max(columns)
    return 1 - covered / padded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=2000, help='number of blank images')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results', help='folder of the table')
    arguments = parser.parse_args()
    init_default_scope('mmdet')
    np.random.seed(0)
    pipeline = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_r50_8x2_150e_coco.py').train_pipeline[2:-1]
    transforms = Compose(pipeline)
    sizes = np.array(SIZES)[np.random.randint(len(SIZES), size=arguments.images)]
    shapes = []
    for width, height in track(sizes, description='augmenting'):
        image = np.zeros((height, width, 3), np.uint8)
        shapes.append(transforms({'img': image, 'img_shape': image.shape[:2]})['img'].shape[:2])
    lines = []
    for batch in (2, 4, 8, 16):
        sampler = SequentialSampler(Sizes(sizes))
        sampler.dataset = sampler.data_source
        at_random = padding(shapes, list(BatchSampler(sampler, batch, drop_last=True)))
        by_aspect = padding(shapes, list(AspectRatioBatchSampler(sampler, batch, drop_last=True)))
        saved = 1 - (1 - at_random) / (1 - by_aspect)
        lines.append([str(batch), *(f'{100 * share:.1f} %' for share in (at_random, by_aspect, saved))])
    text = table(('batch', 'padding at random', 'by aspect ratio', 'pixels saved'), lines)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'padding.md').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
