"""Refuse configs that could run code, for configs from people whom one does not know.

A Python config is a program, and mmengine runs it. JSON and YAML are data, but not as mmengine reads them: a base may
be Python, YAML may construct any object, ``type='os.system'`` is looked up by import, and ``custom_imports`` imports
anything.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from mmengine.fileio import PickleHandler, YamlHandler, register_handler
from mmengine.fileio.io import file_handlers
from mmengine.registry import Registry, registry

from .configs import dicts_in
from .datasets.annotations import leads_outside
from .errors import ConfigError, one_line

PACKAGES = ('mmdet_detr', 'mmdet', 'mmengine', 'mmcv', 'mmpretrain')
READERS = {'.json': json.loads, '.yaml': yaml.safe_load, '.yml': yaml.safe_load}
NAME = re.compile(r'\w+(\.\w+)*')  # nothing else: mmcv's nms evaluates its type as Python
UNQUOTED = re.compile(r"['\\\n]")  # mmengine does not escape these in a key when it stores a config as Python
# These keys and types import, evaluate or unpickle a value of the config.
KEYS = ('sys_path', 'trust_remote_code')
TYPES = (
    'CameraMotionCompensation',
    'KnowledgeDistillationSingleStageDetector',
    'OpenImagesChallengeDataset',
    'OpenImagesDataset',
    'RFSearchHook',
)


class UnsafeConfigError(ConfigError):
    """A config that could run code of its author."""


def require_safe_config(path: Path) -> None:
    """Check that a config and its bases are data, before mmengine reads them; else raise an UnsafeConfigError."""
    for file, content in _with_bases(path, ()):
        imports = content.get('custom_imports') or {}
        names = imports.get('imports', []) if isinstance(imports, dict) else imports
        for name in names if isinstance(names, list) else [names]:
            _require_package(f'{file}: custom_imports', str(name))
        require_safe_values(file, content)


def require_safe_values(file: Path | str, content: Any) -> None:
    """Check the values of a config that was read as data; ``file`` stands in the UnsafeConfigError."""
    for inner in dicts_in(content):
        for key, value in inner.items():
            _require_safe_entry(file, str(key), value)


def _require_safe_entry(file: Path | str, key: str, value: Any) -> None:
    if key in KEYS or (key == 'compile' and isinstance(value, dict)):  # options of compile can name a compiler
        raise UnsafeConfigError(f'{file}: --safe-config takes no {key}')
    if UNQUOTED.search(key):
        raise UnsafeConfigError(f'{file}: --safe-config takes no key {key!r}')
    if key == 'type' and isinstance(value, str):
        _require_type(f'{file}: type', value)
    if key in ('default_scope', '_scope_') and value is not None:  # mmengine imports the package's registry
        _require_package(f'{file}: {key}', str(value))


def _require_type(what: str, name: str) -> None:
    if not NAME.fullmatch(name) or name.split('.')[-1] in TYPES:
        raise UnsafeConfigError(f'{what} {name!r} is refused by --safe-config')
    if '.' in name:
        _require_package(what, name)


def _require_package(what: str, name: str) -> None:
    if name.split('.')[0] not in PACKAGES:
        raise UnsafeConfigError(f'{what} {name!r} is refused by --safe-config: it is not of {", ".join(PACKAGES)}')


def _with_bases(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    if path.suffix not in READERS:
        raise UnsafeConfigError(f'{path}: --safe-config reads {", ".join(READERS)} only: a Python config is a program')
    if path.resolve() in above:
        raise UnsafeConfigError(f'{path} is its own base')
    try:
        text = path.read_text(encoding='utf-8')
        content = READERS[path.suffix](text)
    except OSError as error:
        raise UnsafeConfigError(f'{path}: {error.strerror}') from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UnsafeConfigError(f'{path}: {one_line(error)}') from error
    if not isinstance(content, dict):
        raise UnsafeConfigError(f'{path} holds a {type(content).__name__}, not the object of a config')
    if '{{' in text:  # mmengine substitutes {{...}} after this check
        raise UnsafeConfigError(f'{path}: --safe-config reads no variables in {{{{ }}}}')
    yield path, content
    bases = content.get('_base_', [])
    if not isinstance(bases, str | list):
        raise UnsafeConfigError(f'{path}: _base_ is neither a file nor a list')
    for base in [bases] if isinstance(bases, str) else bases:
        package, _, name = str(base).partition('::')
        if name:  # a config of an installed package
            if package not in PACKAGES or leads_outside(name):
                raise UnsafeConfigError(f'{path}: the base {base} is not of {", ".join(PACKAGES)}')
        else:
            yield from _with_bases(path.parent / str(base), (*above, path.resolve()))


def forbid_code() -> None:
    """Let types in configs be names of registries only, not paths of any Python object, and data files be data.

    A type is checked again when mmengine looks it up, because it may come from a base in an installed package or stand
    under another key than ``type``.
    """
    get = Registry.get

    def get_safely(self: Registry, key: str) -> Any:
        _require_type('type', key)
        return get(self, key)

    def refuse(path: str) -> NoReturn:
        raise UnsafeConfigError(f'{path} is not registered, and --safe-config imports nothing by its path')

    Registry.get = get_safely
    registry.get_object_from_string = refuse
    register_handler(['pickle', 'pkl'])(_NoPickle)
    register_handler(['yaml', 'yml'])(_SafeYaml)


@contextlib.contextmanager
def code_forbidden() -> Iterator[None]:
    """:func:`forbid_code` for a block, after which the process is as before."""
    get, from_string, handlers = Registry.get, registry.get_object_from_string, dict(file_handlers)
    forbid_code()
    try:
        yield
    finally:
        Registry.get, registry.get_object_from_string = get, from_string
        file_handlers.update(handlers)


class _NoPickle(PickleHandler):
    """Writes pickles, such as the results of a test, but reads none."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> NoReturn:
        raise UnsafeConfigError('a pickle could run code, and --safe-config reads none')


class _SafeYaml(YamlHandler):
    """Reads YAML that constructs nothing but lists, dicts and values."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        try:
            return yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise UnsafeConfigError(f'YAML that --safe-config does not read: {one_line(error)}') from error
