from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import DefaultScope

import mmdet_detr  # noqa: F401  (stands in for missing operators before mmdet.models is imported)


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Every test runs in the scope of mmdet's configs, with a fixed seed, and leaves no scope behind."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
