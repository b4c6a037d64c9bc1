"""The module that is traced: a DETR by tensors alone."""

import copy

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..models import DETR
from ..models.padding import cell_mask, padded_sizes


class Deployable(nn.Module):
    """Detections of images and their sizes, with the model's own code and a copy of its weights.

    Args:
        model: on the CPU, with its weights.
        raw: give logits and normalised boxes of every query instead of detections.
        uint8: take pixels that are not normalised yet.
        num_masks: so many detections of each image, the best ones, get masks; None makes them of all.

    Attributes:
        autocast: whether to compute in bfloat16 where autocast does.

    Raises:
        ConfigError: the model is no :class:`DETR`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        raw: bool = False,
        uint8: bool = False,
        num_masks: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, DETR):
            raise ConfigError(f'only mmdet_detr.DETR can be exported, not {type(model).__name__}: mmdeploy may do it')
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.raw = raw
        self.uint8 = uint8
        self.num_masks = num_masks
        self.autocast = False
        preprocessor = model.data_preprocessor
        for name, default in (('mean', 0.0), ('std', 1.0)):
            value = getattr(preprocessor, name, torch.tensor(default))
            self.register_buffer(name, value.expand(3, 1, 1).clone(), persistent=False)
        self.eval()  # of itself as well: torch.onnx.export restores the mode that it finds here, in all parts

    @property
    def outputs(self) -> list[str]:
        """Names of what :meth:`forward` returns."""
        names = ['logits', 'boxes'] if self.raw else ['boxes', 'scores', 'labels']
        if self.model.mask_head is None:
            return names
        return [*names, 'masks'] if self.raw else [*names, 'queries', 'masks']

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: (B, 3, H, W) in the channel order of the preprocessor's output, padded with zeros at the right and
                at the bottom; normalised, or pixels of uint8.
            sizes: unpadded (height, width) of each image, int64 (B, 2).

        Returns:
            Boxes (B, N, 4) xyxy in pixels of the input, clipped to the image, scores (B, N) and labels (B, N), best
            first; or with ``raw`` logits (B, Q, K+1) and cxcywh boxes (B, Q, 4) in units of the unpadded image. A model
            with masks adds mask logits (B, N, h, w), with ``raw`` of every query; else of the best detections, and
            before them the queries (B, N) of the detections, in whose order a panoptic map is made, or -1 where no
            object is the likeliest.
        """
        if self.uint8:
            inside = cell_mask(sizes, (images.shape[2], images.shape[3])).view(-1, 1, images.shape[2], images.shape[3])
            images = (images.to(self.mean.dtype) - self.mean) / self.std * inside
        with torch.autocast('cpu', torch.bfloat16, enabled=self.autocast):
            outputs = self._detect(images, sizes)
        return tuple(x.to(self.mean.dtype) if x.is_floating_point() else x for x in outputs)

    def _detect(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        head, mask_head = self.model.bbox_head, self.model.mask_head
        feats, output = self.model.forward_transformer(images, padded_sizes(images, sizes))
        if self.raw:
            logits, boxes = head(output._replace(hidden=output.hidden[-1:]))
            masks = () if mask_head is None else (mask_head.all_queries(feats, output),)
            return logits[0], boxes[0], *masks
        limits = sizes.flip(1).to(self.mean.dtype)
        logits, found = head.select(output.hidden[-1], limits, limits)
        if mask_head is None:
            return found[:3]
        with_masks = found.queries[:, : self.num_masks]
        hidden = output.hidden[-1].gather(1, with_masks[..., None].expand(-1, -1, output.hidden.shape[-1]))
        masks = mask_head.all_queries(feats, output._replace(hidden=hidden[None]))
        surely_something = (logits.argmax(-1) < head.num_classes).gather(1, found.queries)
        return *found[:3], found.queries.where(surely_something, -1), masks
