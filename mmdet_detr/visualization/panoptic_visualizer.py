"""Draws masks and panoptic maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData, PixelData

from ..datasets.palette import complete_palette
from ..errors import ConfigError
from ..registry import VISUALIZERS
from .legend import Colour, Entry, draw_legend

# Instances of a class get its colour mixed with white (above 0) or black (below 0), by their number.
SHADES = (0.0, 0.35, -0.3, 0.55, -0.5, 0.18, -0.15)
EDGE_SHARE = 1 / 320  # width of the lines between segments, relative to the shorter side of the image


@VISUALIZERS.register_module()
class PanopticVisualizer(DetLocalVisualizer):
    """mmdet's visualizer with masks that leave the photograph and the texts visible, and a legend for panoptic maps.

    - A sample with a panoptic map is shown as the map, with a legend of its classes on the right: the class's colour,
      its name, and the number of its instances if there are several. Instances differ in shade and have a white edge.
      Pixels without a segment (VOID) stay as they are; a map without any segment is the image. The truth beside
      it is the map of the masks of ``gt_instances``.
    - A sample without a map is shown with boxes, names and scores, as mmdet does, and with the masks below them.

    Args:
        name: of the visualizer, in mmengine's list of them.
        alpha: opacity of masks and boxes.
        kwargs: other arguments of ``DetLocalVisualizer``.
    """

    def __init__(self, name: str = 'visualizer', alpha: float = 0.6, **kwargs: Any) -> None:
        super().__init__(name, alpha=alpha, **kwargs)

    def add_datasample(
        self, name: str, image: np.ndarray, data_sample: DetDataSample | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Draw a sample; arguments as in ``DetLocalVisualizer``. The sample is not changed.

        Raises:
            ConfigError: the masks of the truth have another size than the image.
        """
        truth = None if data_sample is None else data_sample.get('gt_instances', {}).get('masks')
        if truth is not None and _mask_array(truth).shape[1:] != image.shape[:2]:
            raise ConfigError(
                f'the masks of gt_instances have {" x ".join(map(str, _mask_array(truth).shape[1:]))} pixels and the '
                f'picture {image.shape[0]} x {image.shape[1]}: load annotations behind the resize in the test pipeline'
            )
        if data_sample is not None and 'pred_panoptic_seg' in data_sample:
            data_sample = _maps_only(data_sample.cpu(), len(self.dataset_meta['classes']))
        super().add_datasample(name, image, data_sample, *args, **kwargs)

    def _draw_instances(
        self,
        image: np.ndarray,
        instances: InstanceData,
        classes: Sequence[str] | None,
        palette: Sequence[Colour] | str | None,
    ) -> np.ndarray:
        if 'masks' in instances:
            labels = np.asarray(instances.labels).tolist()
            colours = self._class_colours(palette, max(labels, default=0) + 1)
            shades = dict.fromkeys(labels, 0)
            for mask, label in zip(_mask_array(instances.masks), labels, strict=True):
                colour = _shade(colours[label], shades[label])
                image = _blend(image, mask, colour, self.alpha, _edge_width(image))
                shades[label] += 1
            kept = {key: value for key, value in instances.items() if key != 'masks'}
            instances = InstanceData(metainfo=instances.metainfo, **kept)
        return super()._draw_instances(image, instances, classes, palette)

    def _draw_panoptic_seg(
        self, image: np.ndarray, panoptic_seg: PixelData, classes: Sequence[str], palette: Sequence[Colour] | str | None
    ) -> np.ndarray:
        colours = self._class_colours(palette, len(classes))
        image, legend = draw_map(image, np.asarray(panoptic_seg.sem_seg)[0], classes, colours, self.alpha)
        return np.concatenate((image, draw_legend(legend, len(image))), axis=1)

    def _class_colours(self, palette: Sequence[Colour] | str | None, count: int) -> Sequence[Colour]:
        chosen = palette if self.mask_color is None else self.mask_color
        return complete_palette(chosen, count) if isinstance(chosen, list) else get_palette(chosen, count)


def draw_map(
    image: np.ndarray, values: np.ndarray, classes: Sequence[str], colours: Sequence[Colour], alpha: float = 0.6
) -> tuple[np.ndarray, list[Entry]]:
    """Draw a panoptic map.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        values: (H, W), label + 1000 * number of the instance; a label that has no class is VOID.
        classes: names of the labels.
        colours: of the labels.
        alpha: opacity of the map.

    Returns:
        The image with the map, and the entries of its legend.
    """
    counts: dict[int, int] = {}
    for value in np.unique(values).tolist():
        label = value % INSTANCE_OFFSET
        if label < len(classes):
            number = counts.get(label, 0)
            image = _blend(image, values == value, _shade(colours[label], number), alpha, _edge_width(image))
            counts[label] = number + 1
    entries: list[Entry] = [
        (colours[label], f'{classes[label]} ({count})' if count > 1 else classes[label])
        for label, count in sorted(counts.items())
    ]
    return image, entries or [(None, 'nothing found')]


def _maps_only(sample: DetDataSample, void: int) -> DetDataSample:
    """A sample of the predicted map and, where there are masks of the truth, of a map of them."""
    shown = DetDataSample(metainfo=sample.metainfo)
    shown.pred_panoptic_seg = sample.pred_panoptic_seg
    if 'masks' in sample.get('gt_instances', ()):
        masks = _mask_array(sample.gt_instances.masks)
        values = np.full(np.asarray(sample.pred_panoptic_seg.sem_seg).shape[1:], void)
        for number, (mask, label) in enumerate(zip(masks, sample.gt_instances.labels.tolist(), strict=True)):
            values[mask] = label + INSTANCE_OFFSET * number
        shown.gt_panoptic_seg = PixelData(sem_seg=torch.from_numpy(values)[None])
    return shown


def _mask_array(masks: Any) -> np.ndarray:
    """Masks of mmdet's structures or a tensor (N, H, W) as an array of bool."""
    return np.asarray(masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks).astype(bool)


def _shade(colour: Colour, number: int) -> np.ndarray:
    """The colour of an instance, by its number in the class."""
    share = SHADES[number % len(SHADES)]
    return np.asarray(colour) * (1 - abs(share)) + 255 * max(share, 0)


def _edge_width(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) * EDGE_SHARE))


def _blend(image: np.ndarray, mask: np.ndarray, colour: np.ndarray, alpha: float, edge: int) -> np.ndarray:
    """The image (H, W, 3) with a mask (H, W) in a colour, and with the pixels at the mask's edge in white."""
    blended = image.copy()
    blended[mask] = (1 - alpha) * image[mask] + alpha * colour
    padded = np.pad(mask, edge, mode='edge')
    inner = mask.copy()
    for axis in (0, 1):
        for shift in (-edge, edge):
            inner &= np.roll(padded, shift, axis)[edge:-edge, edge:-edge]
    blended[mask & ~inner] = 255
    return blended
