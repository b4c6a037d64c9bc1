"""Keep the config in the folder of a run as the one that trained it."""

from collections.abc import Callable
from pathlib import Path

from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner


def keep_config(tool: str) -> None:
    """Let runs of this process leave the config alone that they are read from, and tests any that is there.

    mmengine writes the config of every start into ``vis_data`` as well.

    Args:
        tool: 'train' or 'test'.
    """
    for kind in (Runner, FlexibleRunner):
        kind.dump_config = _keeping(kind.dump_config, tool == 'test')


def _keeping(dump_config: Callable[..., None], testing: bool) -> Callable[..., None]:
    def keep_or_dump(self: Runner) -> None:
        read = Path(self.cfg.filename or '')
        there = Path(self.work_dir, read.name)
        if not there.is_file() or not (testing or there.samefile(read)):
            dump_config(self)

    return keep_or_dump
