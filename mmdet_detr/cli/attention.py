"""Work of ``mim run mmdet_detr attention``."""

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger
from rich.progress import track

from ..attention import Portraits, attend, find_images, portray
from ..attention.page import Choice, write_page
from ..inference import Detector
from .fail import errors_in_one_line
from .named_model import load_named_model


def main(args: argparse.Namespace) -> None:
    """Write the page."""
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)
    model = Path(args.model)
    out = args.out or (model / 'attention' if model.is_dir() else Path('attention'))
    with errors_in_one_line('attention'):
        detector = load_named_model(args, 'behind it')
        attention = attend(detector, args.image, args.score_thr)
        choice = Choice(args.layer, args.encoder_layer, args.heads, args.points)
        choice.require(attention)
        portraits = None if args.portraits is None else _portraits(detector, args)
        pictures = write_page(attention, out, choice, portraits, args.image)
    print(f'{len(attention.queries)} detections, {len(pictures)} pictures: {out / "index.html"}')


def _portraits(detector: Detector, args: argparse.Namespace) -> Portraits:
    images = find_images(detector, Path(args.portraits) if args.portraits else None, args.images)
    if args.max_images is not None and args.max_images < len(images):
        chosen = np.linspace(0, len(images) - 1, max(args.max_images, 1)).round().astype(int)
        images = [images[index] for index in chosen]
    return portray(detector, track(images, 'finding objects'))
