"""Finds the config and the checkpoint of a training run in its folder."""

import re
from pathlib import Path

from .errors import CheckpointNotFoundError, ConfigError


def find_config(run: Path) -> Path:
    """The config in the folder of a run; a config file is its own.

    Raises:
        ConfigError: there is no such file or folder, or the folder has no config, or several.
    """
    if not run.is_dir():
        if not run.is_file():
            raise ConfigError(f'no such config or folder of a run: {run}')
        return run
    configs = sorted(run.glob('*.py'))
    if len(configs) != 1:
        raise ConfigError(f'expected one config in {run}, found {len(configs)}')
    return configs[0]


def find_checkpoint(run: Path) -> Path:
    """The best checkpoint in the folder of a run (``save_best``), or the last if none was marked as best.

    Raises:
        CheckpointNotFoundError: the folder has no checkpoint, or ``run`` is no folder.
    """
    if not run.is_dir():
        raise CheckpointNotFoundError(f'{run} is no folder of a run: name its checkpoint as well')
    best = sorted(run.glob('best_*.pth'), key=lambda path: int(re.findall(r'\d+', path.stem)[-1]))
    if best:
        return best[-1]
    pointer = run / 'last_checkpoint'
    last = run / Path(pointer.read_text().strip()).name if pointer.is_file() else None
    if last is None or not last.exists():
        raise CheckpointNotFoundError(f'{run} has no checkpoint')
    return last
