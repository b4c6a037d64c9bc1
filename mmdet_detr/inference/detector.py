"""A detector that takes images and gives named boxes in their pixels."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from mmcv.transforms import Compose
from mmcv.transforms import LoadAnnotations as MMCVLoadAnnotations
from mmdet.datasets.transforms import LoadImageFromNDArray
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope

from ..datasets import LoadPanopticSegments
from ..datasets.palette import Colour
from .images import ImageLike, as_bgr, read_file
from .result import Result


class Detector:
    """A detector of mmdet with the test pipeline of its config. :func:`mmdet_detr.load` makes one from a checkpoint.

    Attributes:
        model: the module, in evaluation mode; mmdet's ``inference_detector`` takes it, too.
        classes: names of its classes.
        palette: a colour of each class; None if neither checkpoint nor config has them.

    Args:
        model: with its weights, on its device.
        config: with ``test_dataloader``.
        classes: names of the classes.
        palette: colours of the classes.
    """

    def __init__(
        self, model: BaseModel, config: Config, classes: Sequence[str], palette: Sequence[Colour] | None = None
    ) -> None:
        self.model = model.eval()
        self.classes = tuple(classes)
        self.palette = palette
        self._scope = config.get('default_scope', 'mmdet')
        with DefaultScope.overwrite_default_scope(self._scope):
            transforms = Compose(get_test_pipeline_cfg(config)).transforms
        self._loader = transforms[0]
        self._take_array = LoadImageFromNDArray(to_float32=getattr(self._loader, 'to_float32', False))
        annotations = (MMCVLoadAnnotations, LoadPanopticSegments)
        self._prepare = Compose([step for step in transforms[1:] if not isinstance(step, annotations)])

    def __repr__(self) -> str:
        return f'<Detector: {type(self.model).__name__}, {len(self.classes)} classes: {", ".join(self.classes[:5])}>'

    @overload  # a str is a sequence of str, too
    def __call__(  # type: ignore[overload-overlap]
        self, images: ImageLike, score_thr: float = ..., batch_size: int = ...
    ) -> Result: ...
    @overload
    def __call__(self, images: Sequence[ImageLike], score_thr: float = ..., batch_size: int = ...) -> list[Result]: ...
    def __call__(
        self, images: ImageLike | Sequence[ImageLike], score_thr: float = 0.5, batch_size: int = 8
    ) -> Result | list[Result]:
        """Find objects.

        Args:
            images: a path, an http(s) address, a PIL image (RGB or any other mode), an array as OpenCV has it
                (H, W, 3) **BGR** uint8, or a list of these, of any sizes. Files and PIL images are turned upright by
                their EXIF orientation, and boxes are in pixels of the upright image.
            score_thr: detections below are left out; 0 keeps all, as mmdet does.
            batch_size: images that the network sees at once, at most. Only images that have the same size for the
                network go together, because padding would change what is found.

        Returns:
            A :class:`Result`, or a list of them for a list.

        Raises:
            UnreadableImageError: an image cannot be read.
            ValueError: ``score_thr`` is not between 0 and 1, or ``batch_size`` is not positive.
        """
        if not 0 <= score_thr <= 1:
            raise ValueError(f'score_thr has to be between 0 and 1, got {score_thr}')
        if batch_size < 1:
            raise ValueError(f'batch_size has to be positive, got {batch_size}')
        if isinstance(images, list | tuple):
            starts = range(0, len(images), batch_size)
            batches = [images[start : start + batch_size] for start in starts]
            return [result for batch in batches for result in self._detect(batch, score_thr)]
        return self._detect([images], score_thr)[0]  # type: ignore[list-item]

    def read(self, image: ImageLike) -> np.ndarray:
        """An image as (H, W, 3) BGR uint8.

        Raises:
            UnreadableImageError: it cannot be read.
        """
        if isinstance(image, str | Path):
            return read_file(str(image), self._loader)
        return as_bgr(image)

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Input of the model, ``inputs`` and ``data_samples``, for an image (H, W, 3) BGR by the test pipeline."""
        with DefaultScope.overwrite_default_scope(self._scope):
            return self._prepare(self._take_array({'img': image, 'img_id': 0}))

    def _detect(self, images: Sequence[ImageLike], score_thr: float) -> list[Result]:
        with DefaultScope.overwrite_default_scope(self._scope), torch.no_grad():
            inputs = [self.prepare(self.read(image)) for image in images]
            samples = dict(pair for group in _of_one_size(inputs) for pair in self._forward(inputs, group))
        return [self.result(samples[index]).above(score_thr) for index in range(len(images))]

    def _forward(self, inputs: list[dict[str, Any]], indices: list[int]) -> Iterator[tuple[int, DetDataSample]]:
        batch = {key: [inputs[index][key] for index in indices] for key in ('inputs', 'data_samples')}
        return zip(indices, self.model.test_step(batch), strict=True)

    def result(self, sample: DetDataSample) -> Result:
        """What the model found in a sample, the surest first."""
        found = sample.pred_instances.numpy()
        panoptic = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy() if 'pred_panoptic_seg' in sample else None
        masks = np.asarray(found.masks).astype(bool) if 'masks' in found else None
        result = Result(found.bboxes, found.scores, found.labels, self.classes, masks, panoptic)
        return result.take(np.argsort(-result.scores, kind='stable'))


def _of_one_size(inputs: list[dict[str, Any]]) -> list[list[int]]:
    """Indices of the inputs, in groups of one size."""

    def size(index: int) -> tuple[int, ...]:
        return tuple(inputs[index]['inputs'].shape)

    return [list(group) for _, group in groupby(sorted(range(len(inputs)), key=size), key=size)]
