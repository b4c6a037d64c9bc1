"""Loads the model that a command names: weights, the folder of a run, or a config with its weights."""

import argparse
from pathlib import Path

from ..errors import ConfigError
from ..inference import Detector, load
from ..inference.load import CONFIG_SUFFIXES
from ..runs import find_config


def load_named_model(args: argparse.Namespace, where_weights_go: str) -> Detector:
    """Load what ``args.model``, ``args.checkpoint`` and ``args.device`` name.

    Raises:
        ConfigError: the model is a config without weights (the message says where they go), or cannot be used.
    """
    model = Path(args.model)
    if args.checkpoint is not None:
        return load(args.checkpoint, find_config(model), args.device)
    if model.suffix in CONFIG_SUFFIXES and model.is_file():
        raise ConfigError(f'{model} is a config: name its weights {where_weights_go}, or give the folder of its run')
    return load(args.model, device=args.device)
