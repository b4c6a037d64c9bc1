"""Choose the checkpoint that a run resumes from."""

import re
import zipfile
from pathlib import Path

import mmengine.runner
from mmengine.runner import _flexible_runner, runner

from ..log import warn

OPTIMIZER = re.compile(rb'(X\t\0\0\0|\x8c\t)optimizer')  # the key "optimizer" in pickle's protocols 2 and 4


def find_latest_checkpoint(path: str) -> str | None:
    """The checkpoint in a work folder for ``--resume``: the one that the run named last, or the newest complete one."""
    folder = Path(path)
    pointer = folder / 'last_checkpoint'
    named = pointer.read_text(errors='replace').strip('\0 \n') if pointer.exists() else ''
    if named and ('://' in named or is_complete(Path(named))):
        return named
    folders = {folder, Path(named).parent} if named else {folder}
    files = [file for one in folders for file in one.glob('*.pth') if is_complete(file) and _has_optimizer(file)]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    moved = [folder / Path(named).name] if named else []  # the work folder may be a copy
    found = next((file for file in moved + files if is_complete(file)), None)
    if named or found:
        what = f'names {named}, which is missing or incomplete' if named else 'is missing or empty'
        warn(f'{pointer} {what}: {f"going on from {found}" if found else "no other checkpoint is complete"}')
    return str(found) if found else None


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end: PyTorch writes the index of the archive last. A folder always is."""
    return path.is_dir() or zipfile.is_zipfile(path)


def _has_optimizer(path: Path) -> bool:
    """Whether training can go on from a checkpoint. The best and the published ones hold weights alone."""
    if path.is_dir():  # training strategies save the optimizer beside the weights
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(OPTIMIZER.search(archive.read(name)) for name in archive.namelist() if name.endswith('data.pkl'))
    except zipfile.BadZipFile:  # the file is damaged in its middle
        return False


def register_find_latest() -> None:
    """Make mmengine's runners use :func:`find_latest_checkpoint`."""
    for module in (mmengine.runner, runner, _flexible_runner):
        module.find_latest_checkpoint = find_latest_checkpoint
