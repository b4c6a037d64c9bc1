import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from runs import SEEDED, train
from torch import Tensor


class Whole(NamedTuple):
    """A run that nothing interrupted."""

    weights: dict[str, Tensor]
    work_dir: Path


@pytest.fixture(scope='session')
def whole(shapes, tmp_path_factory) -> Callable[..., Whole]:
    """``whole(options)`` trains with a fixed seed, once for the same options."""
    runs: dict[str, Whole] = {}

    def run(options: dict, **more: object) -> Whole:
        key = json.dumps({**options, **SEEDED, **more}, sort_keys=True)
        if key not in runs:
            work_dir = tmp_path_factory.mktemp('whole') / 'run'
            runs[key] = Whole(train(shapes, work_dir, options, **{**SEEDED, **more}), work_dir)
        return runs[key]

    return run
