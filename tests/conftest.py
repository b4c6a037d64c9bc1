import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # torch reads it when it is imported: tests run on all cores at once

import processes
import pytest
import torch
from mmengine.registry import DefaultScope
from ranks import Ranks
from yapf.yapflib import yapf_api

import mmdet_detr  # noqa: F401  (stands in for missing operators before mmdet.models is imported)
from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes

# mmengine formats the config of every run and of every checkpoint, which takes longer than a short training
yapf_api.FormatCode = lambda text, **_: (text, True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker('operators') and importlib.util.find_spec('mmcv._ext') is None:
        pytest.skip("needs mmcv's compiled operators: make test-all")


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Every test runs in the scope of mmdet's configs, with a fixed seed, and leaves no scope behind."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture(scope='session', autouse=True)
def fork_server() -> Iterator[None]:
    gc.freeze()  # every data set of mmengine collects garbage: a second where all of torch and mmdet is looked at
    yield
    processes.stop_fork_server()


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 24 images to train on and four to validate with."""
    root = tmp_path_factory.mktemp('shapes')
    for split, count in (('train', 24), ('val', 4)):
        list(write_shapes(root, split, count, ShapesOptions()))
    return root


@pytest.fixture(scope='session')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Trainings of several processes, each only once."""
    return Ranks(tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='session')
def run_python() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script in a forked process, or code (``-c``) in an interpreter that has imported nothing."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
        if arguments[0] == '-c':
            return processes.start_real(sys.executable, *arguments, cwd=cwd)
        return processes.run(*arguments, cwd=cwd)

    return run


@pytest.fixture(scope='session')
def run_mim() -> Callable[..., subprocess.CompletedProcess]:
    """Start mim itself, which starts a tool: two interpreters that import everything."""
    return lambda *arguments, cwd=None: processes.start_real('mim', *arguments, cwd=cwd)
