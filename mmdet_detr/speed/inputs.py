"""Makes the images and objects to measure with. They are the same for every detector."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from PIL import Image, ImageOps

from ..errors import ConfigError

SUFFIXES = ('.jpg', '.jpeg', '.png')


class Inputs:
    """Batches of images, resized to (height, width) pixels, with so many random boxes in each image.

    The images are the first ones of a folder in alphabetical order, repeated if there are fewer than the batch needs.
    Without a folder, images are generated. With ``masks``, every object has the mask that fills its box.

    Raises:
        ConfigError: the folder has no images.
    """

    def __init__(
        self,
        size: tuple[int, int],
        batch: int,
        objects: int,
        num_classes: int,
        images: Path | None = None,
        masks: bool = False,
    ) -> None:
        self.size = size
        self.batch = batch
        if images is None:
            self._folder = tempfile.TemporaryDirectory(prefix='mmdet_detr_benchmark_')
            paths = [_generate(Path(self._folder.name), size, i) for i in range(batch)]
        else:
            paths = sorted(path for path in images.glob('*') if path.suffix.lower() in SUFFIXES)
            if not paths:
                raise ConfigError(f'no images in {images}: expected files that end in {", ".join(SUFFIXES)}')
        random = np.random.default_rng(0)
        self._infos = []
        for i in range(batch):
            path = paths[i % len(paths)]
            width, height = ImageOps.exif_transpose(Image.open(path)).size  # mmcv applies the EXIF orientation as well
            top_left = random.uniform(0, 0.6, (objects, 2))
            bottom_right = top_left + random.uniform(0.05, 0.4, (objects, 2))
            boxes = np.concatenate((top_left, bottom_right), axis=1) * [width, height, width, height]
            labels = random.uniform(0, num_classes, objects).astype(int)  # as many draws for any number of classes
            instances = [
                {'bbox': box, 'bbox_label': label, 'ignore_flag': 0, 'mask': [_corners(*box)]}
                for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
            ]
            self._infos.append({'img_path': str(path), 'img_id': i, 'instances': instances})
        self._pipeline = Compose(
            [
                {'type': 'LoadImageFromFile'},
                {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': masks},
                {'type': 'Resize', 'scale': size[::-1], 'keep_ratio': False},
                {'type': 'PackDetInputs'},
            ]
        )

    def read(self) -> dict[str, Any]:
        """Decode, resize and collate a batch, as a data loader does."""
        with torch.no_grad():
            return pseudo_collate([self._pipeline(self.info(i)) for i in range(self.batch)])

    def info(self, index: int) -> dict[str, Any]:
        """Input of a pipeline for an image. Indices beyond the batch repeat its images."""
        return dict(self._infos[index % self.batch])


def _corners(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def _generate(folder: Path, size: tuple[int, int], seed: int) -> Path:
    """Write a JPEG of smooth noise that takes about as long to decode as a photograph."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = np.clip(image + random.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)
    path = folder / f'{seed}.jpg'
    Image.fromarray(noisy).save(path, quality=90)
    return path
