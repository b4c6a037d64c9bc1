"""Where each query of a DETR finds objects, over a data set (paper figure 7)."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.registry import DATASETS, DefaultScope

from ..errors import ConfigError, UserError, one_line
from ..inference import Detector
from .compute import parts_of, predictions, transformer_outputs


class Portraits(NamedTuple):
    """All boxes of all Q queries in I images."""

    boxes: np.ndarray  # (I, Q, 4) float32, cxcywh in units of the image
    scores: np.ndarray  # (I, Q) float32, of the best class

    def busiest(self, count: int, score_thr: float) -> np.ndarray:
        """The ``count`` queries with the most detections, the one with the most first; (N,), N at most Q."""
        return np.argsort(-(self.scores >= score_thr).sum(0), kind='stable')[:count]


def portray(detector: Detector, images: Iterable[str | Path]) -> Portraits:
    """Collect the boxes of all queries of a detector in the last decoder layer.

    Args:
        detector: as for :func:`attend`.
        images: paths, in a sequence or with a bar of progress around it.

    Raises:
        ConfigError: the detector is another one.
        UnreadableImageError: an image cannot be read.
    """
    head, transformer = parts_of(detector.model)
    boxes, scores = [], []
    with transformer_outputs(transformer) as passes:
        for image in images:
            detector(image)
            for _, output in passes:
                scores_of_image, _, boxes_of_image = predictions(head, output.hidden[-1])
                boxes.append(boxes_of_image.cpu().numpy())
                scores.append(scores_of_image.cpu().numpy())
            passes.clear()
    if not boxes:
        raise ConfigError('there are no images to make portraits of')
    return Portraits(np.concatenate(boxes), np.concatenate(scores))


def find_images(detector: Detector, coco: Path | None = None, folder: Path | None = None) -> list[str]:
    """The images of a data set.

    Args:
        detector: its config has ``test_dataloader``.
        coco: a COCO file with ``images``; None takes the test data of the config.
        folder: of the images of the file; by default that of the config's images, or else that of the file.

    Raises:
        UserError: the file is none of COCO, or its images are not there.
        ConfigError: the config's data set cannot be built.
    """
    config = detector.model.cfg
    if coco is None:
        with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
            try:
                dataset = DATASETS.build(config.test_dataloader.dataset)
            except Exception as error:  # a data set raises anything on files that are not there
                raise ConfigError(f'the test data of the config cannot be read: {one_line(error)}') from error
        return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    try:
        names = [image['file_name'] for image in json.loads(coco.read_text(encoding='utf-8'))['images']]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f'{coco} is no annotation file of COCO: {type(error).__name__} {one_line(error)}') from error
    if not names:
        raise UserError(f'{coco} has no images')
    folders = [folder] if folder else [*_folder_of(config.test_dataloader.dataset), coco.parent]
    for place in folders:
        if (place / names[0]).is_file():
            return [str(place / name) for name in names]
    raise UserError(
        f'{coco}: {names[0]} is not in {" or ".join(map(str, folders))}: name the folder of its images (--images)'
    )


def _folder_of(dataset: dict) -> Sequence[Path]:
    prefix = (dataset.get('data_prefix') or {}).get('img')
    return [] if prefix is None else [Path(dataset.get('data_root') or '', prefix)]
