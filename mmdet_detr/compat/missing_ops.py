"""Put a stand-in in the place of ``mmcv.ops`` if mmcv was built without its compiled operators.

DETR needs no operator, but ``mmdet.models`` imports ``mmcv.ops``. With the stand-in every such import succeeds, and
*using* an operator raises an ImportError that names the model and the command that builds the operators. Nothing
happens if ``mmcv._ext`` exists.
"""

import importlib.util
import sys
import traceback
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NoReturn

from torch import nn

# Configs of mmdet's models name these operators, so they have to be registered.
REGISTERED = {
    'carafe': 'CARAFEPack',
    'CrissCrossAttention': 'CrissCrossAttention',
    'DCN': 'DeformConv2dPack',
    'DCNv2': 'ModulatedDeformConv2dPack',
    'MMSyncBN': 'SyncBatchNorm',
    'MultiScaleDeformableAttention': 'MultiScaleDeformableAttention',
    'SAC': 'SAConv2d',
}


def stand_in_for_missing_ops() -> None:
    """Let ``import mmcv.ops`` succeed without ``mmcv._ext``; do nothing if it is built."""
    if importlib.util.find_spec('mmcv') is None or importlib.util.find_spec('mmcv._ext') is not None:
        return
    for name in [name for name in sys.modules if name.startswith('mmcv.ops')]:
        del sys.modules[name]  # an earlier import failed half-way and left it
    sys.meta_path.insert(0, _StandInFinder())
    from mmengine.registry import MODELS

    for name, operator in REGISTERED.items():
        if name not in MODELS.module_dict:
            MODELS.register_module(name, module=_missing_operator(operator))


class _StandInFinder(MetaPathFinder, Loader):
    """Finds ``mmcv.ops`` and every module below it, all of them stand-ins."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname == 'mmcv.ops' or fullname.startswith('mmcv.ops.'):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StandInModule(ModuleType):
    """A module in which every public name is a missing operator.

    It is callable because ``mmcv.ops.nms`` is a function in mmcv and a module here once
    ``mmcv.ops.nms.batched_nms`` was imported.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return _missing_operator(name)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        _raise_missing(self.__name__.rpartition('.')[2])


class _MissingOperator(type):
    """A class that can be imported, subclassed and compared with, but not called."""

    operator: str

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        _raise_missing(cls.operator)


def _missing_operator(name: str) -> _MissingOperator:
    return _MissingOperator(name, (nn.Module,), {'operator': name})


def _raise_missing(operator: str) -> NoReturn:
    package = 'mmcv'
    for candidate in ('onedl-mmcv', 'mmcv-lite', 'mmcv'):
        try:
            package = f'{candidate.removesuffix("-lite")}=={version(candidate)}'
            break
        except PackageNotFoundError:
            continue
    raise ImportError(
        f'{_outermost_caller()} needs the compiled operator mmcv.ops.{operator}, and this mmcv was built without '
        'operators. Build them with: pip install torch ninja psutil && MMCV_WITH_OPS=1 pip install '
        f'--no-build-isolation --no-deps --no-cache-dir --force-reinstall {package}'
    )


def _outermost_caller() -> str:
    """Name of the model that used the operator: the outermost module that is being built or called."""
    owners = [frame.f_locals.get('self') for frame, _ in traceback.walk_stack(None)]
    models = [type(owner).__name__ for owner in owners if isinstance(owner, nn.Module)]
    return models[-1] if models else 'The model'
