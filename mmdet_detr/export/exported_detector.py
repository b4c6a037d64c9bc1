"""An exported file as one of mmdet's detectors, so that tests and benchmarks take it like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models import DetDataPreprocessor
from mmdet.structures import SampleList
from mmengine.model import BaseModel
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from ..errors import ConfigError
from ..models.masks.panoptic import panoptic_map
from ..models.masks.resize import instance_masks
from ..registry import MODELS
from .formats import open_file


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """Predicts by an exported file on the CPU; a config tests it with ``model=dict(type=..., path=...)``.

    Args:
        path: of the file.
        threads: to compute with; None leaves it to the runtime, and 0 takes those of PyTorch.

    Raises:
        ConfigError: there is no such file, it is no file of ours, or gives raw outputs.
    """

    def __init__(self, path: str, threads: int | None = None) -> None:
        threads = torch.get_num_threads() if threads == 0 else threads
        self.compute, metadata = open_file(Path(path), threads)
        self.metadata: dict[str, Any] = metadata
        if metadata['raw']:
            raise ConfigError(f'{path} gives raw outputs: export it without --raw to detect with it')
        uint8 = metadata['uint8']
        normalise = {} if uint8 else {'mean': metadata['mean'], 'std': metadata['std']}
        super().__init__(
            DetDataPreprocessor(
                bgr_to_rgb=metadata['channel_order'] == 'rgb',
                pad_size_divisor=metadata['pad_size_divisor'],
                **normalise,
            )
        )

    def forward(self, inputs: Tensor, data_samples: SampleList, mode: str = 'predict') -> SampleList:
        """The samples with ``pred_instances`` and, of a panoptic model, ``pred_panoptic_seg``.

        Args:
            inputs: preprocessed images (B, 3, H, W).
            data_samples: with ``img_shape``, ``ori_shape`` and, if resized, ``scale_factor``.
            mode: ``'predict'``, or ``'tensor'`` for the outputs of the file.

        Raises:
            ConfigError: the images are larger than the file takes; or ``mode`` is ``'loss'``.
        """
        if mode == 'loss':
            raise ConfigError('an exported file cannot be trained')
        sizes = [tuple(sample.img_shape[:2]) for sample in data_samples]
        if mode == 'tensor':
            return self._run(inputs, torch.tensor(sizes))
        if 'min_area' not in self.metadata:
            self._predict(inputs, data_samples)
            return data_samples
        for height, width in dict.fromkeys(sizes):  # as DETR does, because padding would change masks
            indices = [index for index, size in enumerate(sizes) if size == (height, width)]
            self._predict(inputs[indices, :, :height, :width], [data_samples[index] for index in indices])
        return data_samples

    def _predict(self, inputs: Tensor, data_samples: SampleList) -> None:
        outputs = self._run(inputs, torch.tensor([sample.img_shape[:2] for sample in data_samples]))
        boxes, scores, labels, *of_masks = outputs
        padded_size, min_score = self._fixed(inputs), self.metadata['min_score']
        for i, sample in enumerate(data_samples):
            width, height = 1 / np.asarray(sample.get('scale_factor', (1.0, 1.0)))[:2]
            limit = boxes.new_tensor(sample.ori_shape[1::-1]).repeat(2)
            found = InstanceData(
                bboxes=(boxes[i] * boxes.new_tensor([width, height]).repeat(2)).clamp(min=0).minimum(limit),
                scores=scores[i],
                labels=labels[i],
            )
            kept = (found.scores > min_score) | (min_score == 0)
            if of_masks:
                queries, masks = of_masks
                self._add_masks(sample, found, queries[i], masks[i], padded_size)
            else:
                sample.pred_instances = found[kept]

    def _run(self, inputs: Tensor, sizes: Tensor) -> list[Tensor]:
        """Outputs for any number of images, in batches as the file takes them."""
        height, width = self._fixed(inputs)
        if inputs.shape[2] > height or inputs.shape[3] > width:
            got = 'x'.join(map(str, inputs.shape[2:]))
            raise ConfigError(f'the file takes images of {height}x{width} pixels, got {got}')
        inputs = F.pad(inputs, (0, width - inputs.shape[3], 0, height - inputs.shape[2]))
        images = inputs.to(torch.uint8 if self.metadata['uint8'] else torch.float32).numpy()
        batch = self.metadata['shape'][0] or len(images)
        parts = []
        for start in range(0, len(images), batch):
            rows = np.arange(start, start + batch).clip(max=len(images) - 1)  # the last image fills the batch
            parts.append([output[: len(images) - start] for output in self.compute(images[rows], sizes.numpy()[rows])])
        return [torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*parts, strict=True)]

    def _fixed(self, inputs: Tensor) -> tuple[int, int]:
        _, height, width = self.metadata['shape']
        return height or inputs.shape[2], width or inputs.shape[3]

    def _add_masks(
        self, sample: Any, found: InstanceData, queries: Tensor, logits: Tensor, padded_size: tuple[int, int]
    ) -> None:
        num_classes = len(self.metadata['classes'])
        num_things = self.metadata['num_things_classes']
        num_things = num_classes if num_things is None else num_things
        found = found[: len(logits)]
        sizes = (padded_size, tuple(sample.img_shape[:2]), tuple(sample.ori_shape[:2]))
        if num_things < num_classes:
            queries = queries[: len(found)]
            certain = (found.scores > self.metadata['panoptic_score_thr']) & (queries >= 0)
            certain = certain.nonzero().squeeze(1)
            certain = certain[queries[certain].argsort()]
            area = self.metadata['min_area']
            sem_seg = panoptic_map(logits[certain], found.labels[certain], num_things, num_classes, area, *sizes)
            sample.pred_panoptic_seg = PixelData(sem_seg=sem_seg[None])
        min_score = self.metadata['min_score']
        things = (found.labels < num_things) & ((found.scores > min_score) | (min_score == 0))
        sample.pred_instances = found[things]
        sample.pred_instances.masks = instance_masks(logits[things], *sizes)
