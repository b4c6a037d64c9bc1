import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

import mmdet_detr  # noqa: F401  (stands in for missing operators before mmdet.models is imported)
from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker('operators') and importlib.util.find_spec('mmcv._ext') is None:
        pytest.skip("needs mmcv's compiled operators: make test-ops")


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Every test runs in the scope of mmdet's configs, with a fixed seed, and leaves no scope behind."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 24 images to train on and four to validate with."""
    root = tmp_path_factory.mktemp('shapes')
    for split, count in (('train', 24), ('val', 4)):
        list(write_shapes(root, split, count, ShapesOptions()))
    return root


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a command with this environment's interpreter and scripts first in PATH, without a GPU."""
    scripts = str(Path(sys.executable).parent)
    env = {**os.environ, 'PATH': f'{scripts}{os.pathsep}{os.environ["PATH"]}', 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess]:
    return lambda *arguments, cwd=None: run(sys.executable, *arguments, cwd=cwd)


@pytest.fixture(scope='session')
def run_mim() -> Callable[..., subprocess.CompletedProcess]:
    return lambda *arguments, cwd=None: run('mim', *arguments, cwd=cwd)
