"""Writes checkpoints so that a crash at any moment leaves complete files only."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from ..checkpoints import CheckpointError
from ..checkpoints.files import load_from_local
from ..checkpoints.resume import require_resumable
from ..log import warn
from ..registry import HOOKS

INTERRUPTED = 'interrupted_iter_'
PART = '.part'  # files with this suffix are being written: nothing reads them, and the next start deletes them
FULL = 'inline_container'  # PyTorch raises a RuntimeError with this word where it cannot write a file


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written. Earlier checkpoints are unchanged."""


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` with files that survive a crash at any moment.

    Every call of ``runner.save_checkpoint`` writes under a temporary name, waits until the data are on the disk, and
    then renames the file. After that the hook updates ``last_checkpoint`` and deletes what ``max_keep_ckpts`` no longer
    keeps, while mmengine deletes first and writes in place. All ranks wait until the checkpoint is complete. The first
    checkpoint of a run is read back, with a warning if ``--resume`` would refuse it. If the checkpoints go to another
    storage (``out_dir`` with ``://``), the hook warns and writes them directly. A checkpoint to resume from must be of
    the same model.

    Raises:
        CheckpointError: the state of the optimizer in a checkpoint to resume from does not fit the model.
        CheckpointWriteError: in training, if a checkpoint cannot be written (disk full, no permission).
    """

    out_dir: str

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume and not isinstance(runner.model, FullyShardedDataParallel):  # its parameters have no shapes
            require_resumable(checkpoint, runner.model.module if is_model_wrapper(runner.model) else runner.model)

    def before_train(self, runner: Runner) -> None:
        self.file_backend: Any = None
        super().before_train(runner)
        self._outdated: list[str] = []
        self._meta: dict[str, Any] = {}
        self._storage: Any = self.file_backend
        self._read_back = False
        if not isinstance(self._storage, LocalBackend):
            storage = type(self._storage).__name__
            warn(f'checkpoints in {self.out_dir} are written by {storage}, not atomically: a crash can damage them')
            return
        self.out_dir = os.path.abspath(self.out_dir)  # a run may be resumed from another working directory
        if is_main_process():
            for part in Path(self.out_dir).glob(f'*{PART}'):
                warn(f'{part} was left half-written by an earlier run and is deleted')
                _delete(part)
        self.file_backend = _DeletesLater(self._outdated)
        runner.save_checkpoint = _atomically(runner.save_checkpoint)
        strategy = getattr(runner, 'strategy', None)
        if strategy:  # FlexibleRunner overwrites epoch and iteration, as if an epoch or an iteration ended now
            strategy.save_checkpoint = self._with_our_meta(strategy.save_checkpoint)

    def after_train(self, runner: Runner) -> None:
        for owner in (runner, getattr(runner, 'strategy', runner)):
            vars(owner).pop('save_checkpoint', None)
        super().after_train(runner)

    def _with_our_meta(self, save: Callable) -> Callable:
        def save_with_our_meta(*args: Any, extra_ckpt: dict[str, Any], **kwargs: Any) -> None:
            extra_ckpt['meta'].update(self._meta)
            save(*args, extra_ckpt=extra_ckpt, **kwargs)

        return save_with_our_meta

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> Path:
        """Save a checkpoint after so many finished epochs and iterations. The next scheduled one replaces it."""
        name = f'{INTERRUPTED}{iteration}.pth'
        self._save(runner, name, {'epoch': epoch, 'iter': iteration})
        return Path(self.out_dir) / name

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            steps = [*self.keep_ckpt_ids, step]
            self._outdated += [self._path(self.filename_tmpl.format(old)) for old in steps[: -self.max_keep_ckpts]]
            self.keep_ckpt_ids.append(step)  # this deque has a maximum length and drops its first entry
            # If this run is killed before it deletes outdated checkpoints, the resumed run deletes them.
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._delete_outdated()

    def _save(self, runner: Runner, name: str, meta: dict[str, Any]) -> None:
        self.last_ckpt = self._path(name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._meta = dict(meta)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._meta = {}
        if is_main_process():
            with _written(Path(runner.work_dir) / 'last_checkpoint') as part:
                part.write_text(self.last_ckpt)
            names = self._storage.list_dir_or_file(self.out_dir)
            self._outdated += [self._path(name) for name in names if name.startswith(INTERRUPTED)]
        self._delete_outdated()
        barrier()  # a rank that ends earlier could make the launcher end the others while they write
        if is_main_process() and not self._read_back:
            self._read_back = True
            _warn_unless_readable(Path(self.last_ckpt))

    def _delete_outdated(self) -> None:
        for path in self._outdated if is_main_process() else ():
            if path != self.last_ckpt and self._storage.isfile(path):
                self._storage.remove(path)
            elif path != self.last_ckpt and self._storage.isdir(path):
                self._storage.rmtree(path)
        self._outdated.clear()

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)


class _DeletesLater(LocalBackend):
    """A local backend that does not delete files, but notes them for later."""

    def __init__(self, outdated: list[str]) -> None:
        super().__init__()
        self.outdated = outdated

    def remove(self, filepath: str | Path) -> None:
        self.outdated.append(str(filepath))

    rmtree = remove


def _atomically(save: Callable) -> Callable:
    def save_atomically(out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        with _written(Path(out_dir) / filename) as part:
            save(out_dir, part.name, *args, **kwargs)
            barrier()  # some training strategies write from every process

    return save_atomically


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` when its data are on the disk."""
    part = path.with_name(path.name + PART)
    try:
        yield part
        if is_main_process():
            for file in (part, *part.rglob('*')):
                _to_disk(file)
            if path.is_dir():  # a rename cannot replace a folder, such as a sharded checkpoint
                _delete(path)
            part.replace(path)
            _to_disk(path.parent)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and FULL not in str(error):
            raise
        _delete(part)
        reason = error.strerror if isinstance(error, OSError) else 'disk full?'
        message = f'cannot write {path}: {reason or error}; earlier checkpoints are complete'
        raise CheckpointWriteError(message) from error


def _warn_unless_readable(path: Path) -> None:
    if path.is_file():  # a checkpoint on another storage, or in several files, is not checked
        try:
            load_from_local(str(path))
        except CheckpointError as error:
            warn(f'--resume cannot continue from the checkpoints of this run: {error}')


def _to_disk(path: Path) -> None:
    """Wait until the content of a file, or the list of names in a folder, is on the disk."""
    if os.name == 'nt':  # Windows neither opens folders nor flushes files that are open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
