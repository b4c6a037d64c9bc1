"""Read configs, and walk through them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .errors import ConfigError, one_line

PACKAGE = Path(__file__).parent
ROOTS = (PACKAGE / '.mim', PACKAGE.parent)  # of configs and tools: in an installed package, and in a checkout


def packaged(path: str) -> Path | None:
    """A file of the package by its path in a checkout, such as ``configs/detr/...`` or ``tools/...``; None: missing."""
    return next((root / path for root in ROOTS if (root / path).is_file()), None)


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a config file.

    Args:
        path: the config.
        overrides: values by keys such as ``train_dataloader.batch_size``, as in ``--cfg-options``.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    if not Path(path).is_file():
        raise ConfigError(f'no such file: {path}')
    try:
        config = Config.fromfile(path)
        config.merge_from_dict(overrides or {})
    except Exception as error:  # a config is a program, which can raise anything
        raise ConfigError(f'{path} cannot be read: {type(error).__name__}: {one_line(error)}') from error
    return config


def dicts_in(config: Any) -> Iterator[dict[Any, Any]]:
    """Every dict of a config, in the order of the text: a dict before the dicts inside it.

    A dict that stands in several places (YAML allows that, even inside itself) comes once. The caller may change the
    dict that it got last, and the walk goes on with what is in it then.
    """
    seen: dict[int, Any] = {}  # it holds the objects as well, because the id of a deleted object is used again
    rest = [config]
    while rest:
        node = rest.pop()
        if id(node) in seen or not isinstance(node, dict | list | tuple):
            continue
        seen[id(node)] = node
        if isinstance(node, dict):
            yield node
        rest += reversed(list(node.values() if isinstance(node, dict) else node))


def forget_pretrained(model: ConfigDict) -> None:
    """Drop the addresses of pretrained weights from the config of a model."""
    for part in dicts_in(model):
        part.pop('pretrained', None)
        if isinstance(part.get('init_cfg'), dict) and 'checkpoint' in part['init_cfg']:  # PVT names no type
            part['init_cfg'] = None
