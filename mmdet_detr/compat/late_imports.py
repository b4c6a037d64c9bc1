"""Import ``transformers`` and others when they are used: mmengine and mmdet import them at every start.

A few modules import names of them, for models and transforms that few runs have. While such a module is imported,
stand-ins take the place of the package. A stand-in can be imported, registered and subclassed. Using it, or a class
built on it, imports what it stands for.
"""

import importlib.util
import inspect
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

IMPORTERS = {
    'mmdet.datasets.transforms.generate_line': 'imgaug',
    'mmdet.datasets.transforms.text_transformers': 'transformers',
    'mmdet.datasets.transforms.transforms': 'imagecorruptions',
    'mmdet.models.dense_heads.atss_vlfusion_head': 'transformers',
    'mmdet.models.language_models.bert': 'transformers',
    'mmdet.models.utils.vlfuse_helper': 'transformers',
    'mmengine.optim.optimizer.builder': 'transformers',
}
IMPORTED = {
    'imagecorruptions': ('',),
    'imgaug': ('', '.augmenters', '.augmentables.lines', '.augmentables.segmaps'),
    'transformers': ('', '.modeling_utils', '.models.bert.modeling_bert'),
}


def import_late() -> None:
    """Let the modules of :data:`IMPORTERS` be imported with stand-ins, from now on."""
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> Any:
        package = IMPORTERS.get(fullname)
        if package is None or package in sys.modules or importlib.util.find_spec(package) is None:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        package = IMPORTERS[self.name]
        stand_ins = {package + name: _StandIn(package + name) for name in IMPORTED[package]}
        sys.modules.update(stand_ins)
        try:
            super().exec_module(module)
        finally:
            for name in stand_ins:
                del sys.modules[name]


class _StandIn(ModuleType):
    """A module in which every public name is a stand-in."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return _Late(name, (), {'_stands_for': (self.__name__, name)})


class _Late(type):
    """Type of the stand-ins, and of the classes built on them."""

    def __getattr__(cls, name: str) -> Any:
        if '_stands_for' in vars(cls) and name == '__signature__':  # mmengine asks for an optimizer's first argument
            return inspect.signature(_real(cls))
        if '_stands_for' in vars(cls) and not name.startswith('__'):  # such as BertConfig.from_pretrained
            return getattr(_real(cls), name)
        raise AttributeError(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if '_stands_for' in vars(cls):
            return _real(cls)(*args, **kwargs)
        for owner in cls.__mro__:
            if any('_stands_for' in vars(base) for base in owner.__bases__):
                owner.__bases__ = tuple(_real(base) for base in owner.__bases__)
                super(owner, owner).__init_subclass__()  # type: ignore[arg-type]  # the stand-in had none
        return super().__call__(*args, **kwargs)


def _real(cls: type) -> Any:
    """What a stand-in stands for. Any other class is returned as it is."""
    if '_stands_for' not in vars(cls):
        return cls
    module, name = vars(cls)['_stands_for']
    return getattr(importlib.import_module(module), name)
