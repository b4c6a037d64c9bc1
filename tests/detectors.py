"""Checkpoints and images for tests of inference."""

from pathlib import Path

import numpy as np
import torch
from foreign import randomise
from helpers import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

CLASSES = ('circle', 'square', 'triangle')
PALETTE = [(220, 20, 60), (0, 130, 200), (255, 190, 0)]
RESIZE = {'type': 'mmdet_detr.ShortestSideResize', 'sizes': [48], 'longest': 90}


def small_config(panoptic: bool = False) -> Config:
    """The demonstration's, with a resize in its test pipeline."""
    name = 'detr_tiny_panoptic_shapes' if panoptic else 'detr_tiny_shapes'
    config = Config.fromfile(ROOT / 'configs' / 'detr' / f'{name}.py')
    config.test_dataloader.dataset.pipeline.insert(1, RESIZE)
    return config


def save_checkpoint(folder: Path, config: Config, **meta: object) -> Path:
    """A checkpoint of random weights, as a run writes it."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = randomise(MODELS.build(config.model))
    with torch.no_grad():  # make queries of every class, with scores between 0 and 1
        model.neck.query_embed.weight.normal_(0, 5)
        logits = model(torch.randn(4, 3, 48, 48), mode='tensor')[0][-1].flatten(0, 1)
        head = model.bbox_head.class_embed
        spread = 2 / logits.std(0)
        head.bias.copy_((head.bias - logits.mean(0)) * spread)
        head.weight.mul_(spread[:, None])
    path = folder / 'iter_7.pth'
    metainfo = config.test_dataloader.dataset.metainfo
    meta = {'cfg': config.pretty_text, 'dataset_meta': {**metainfo}, **meta}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    (folder / 'last_checkpoint').write_text(str(path))
    return path


def write_images(folder: Path) -> None:
    """Images of three sizes and several kinds."""
    generator = np.random.default_rng(0)

    def pixels(height: int, width: int, *channels: int) -> np.ndarray:
        return generator.integers(0, 256, (height, width, *channels), dtype=np.uint8)

    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels(40, 60, 3)).save(folder / 'turned.jpg', exif=turned)
    Image.fromarray(pixels(64, 64, 3)).save(folder / 'colour.png')
    Image.fromarray(pixels(50, 70)).save(folder / 'grey.png')
    Image.fromarray(pixels(64, 64, 4)).save(folder / 'opacity.png')
    Image.fromarray(pixels(64, 64, 2)).save(folder / 'grey_opacity.png')
    Image.fromarray(pixels(64, 64, 3)).quantize(16).save(folder / 'palette.png')
    Image.fromarray(generator.integers(0, 2**16, (64, 64), dtype=np.uint16)).save(folder / 'deep.png')
