"""Small models and batches with masks, for several tests."""

import numpy as np
import torch
from helpers import random_sample, tiny_detr_config
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from torch import Tensor, nn

NUM_THINGS, NUM_CLASSES = 3, 5


def masks_config(**model: object) -> Config:
    """The tiny DETR with a mask head on the three finer levels of its backbone."""
    config = tiny_detr_config(NUM_CLASSES, embed_dims=128)
    config.backbone.out_indices = (0, 1, 2, 3)
    config.bbox_head.embed_dims = 128
    config.mask_head = {
        'type': 'mmdet_detr.MaskHead',
        'in_channels': (8, 16, 32),
        'embed_dims': 128,
        'num_things_classes': NUM_THINGS,
    }
    config.merge_from_dict(model)
    return config


def built(config: Config) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(config)
    for norm in model.modules():
        if isinstance(norm, nn.GroupNorm):  # others than those that it starts with
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.2)
    return model


def with_masks(sample: DetDataSample) -> DetDataSample:
    """Give every object an ellipse that fills its box."""
    h, w = sample.img_shape
    rows, columns = np.mgrid[:h, :w] + 0.5
    masks = [
        ((columns - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((rows - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.25
        for x1, y1, x2, y2 in sample.gt_instances.bboxes.tolist()
    ]
    sample.gt_instances.masks = BitmapMasks(np.array(masks, np.uint8).reshape(-1, h, w), h, w)
    return sample


def batch(sizes: list[tuple[int, int]], counts: list[int], scale: float = 1.0) -> tuple[Tensor, list[DetDataSample]]:
    """Images (h, w) padded to the largest, with so many objects each."""
    padded = tuple(max(side) for side in zip(*sizes, strict=True))
    images, samples = torch.zeros(len(sizes), 3, *padded), []
    for image, (h, w), count in zip(images, sizes, counts, strict=True):
        image[:, :h, :w] = torch.randn(3, h, w)
        sample = with_masks(random_sample((h, w), padded, count, NUM_CLASSES))
        sample.set_metainfo({'ori_shape': (round(h / scale), round(w / scale)), 'scale_factor': (scale, scale)})
        samples.append(sample)
    return images, samples
