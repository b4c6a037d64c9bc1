"""The files of a folder, the images among them, and what the names of folders say about training and validation."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path, PurePath

from ..datasets.images import IMAGES
from ..errors import UserError

MOST_UNUSABLE = 0.1  # share of the images, of the annotations or of the .xml files
SPLITS = ('train', 'val', 'test')
WORDS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}


class OwnDataError(UserError):
    """A folder of pictures that cannot be trained on; the message is one line that says why."""


class Files:
    """All files below a folder, sorted, without hidden ones.

    Args:
        root: the folder. Links are followed, and no folder is read twice.

    Attributes:
        unread: sentences about files that may be annotations and that the readers cannot read: the reason, if the
            folder is refused.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.all = list(_walk(root))
        self.images = [path for path in self.all if is_image(path)]
        self.unread: list[str] = []

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of these endings, in lower case; those nearest to the root first."""
        found = [path for path in self.all if path.suffix.lower() in suffixes]
        return sorted(found, key=lambda path: (len(path.parts), path))

    @cached_property
    def by_name(self) -> dict[str, list[Path]]:
        """Images by the name of the file."""
        return _grouped(self.images, lambda path: path.name)

    @cached_property
    def by_stem(self) -> dict[str, list[Path]]:
        """Images by the name of the file without its ending."""
        return _grouped(self.images, lambda path: path.stem)

    def below_root(self, path: Path) -> PurePath:
        """The path as it is written below the root; of a file elsewhere, its name."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else PurePath(path.name)

    def refusal(self, reason: str) -> OwnDataError:
        """The error for a folder in which something is missing: it may be in a file that cannot be read."""
        return OwnDataError('. '.join([f'{self.root} {reason}', *self.unread]))


def is_image(path: PurePath) -> bool:
    return path.suffix.lower() in IMAGES


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, with each ``..`` followed, stays in a folder; links are not followed."""
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))


def leave_out(where: str, what: str, number: int, lost: list[str], notes: list[str]) -> None:
    """A note about what cannot be used.

    Raises:
        OwnDataError: it is more than a tenth.
    """
    if not lost:
        return
    text = f'{where}{len(lost)} of {number} {what} cannot be used, first: {lost[0]}'
    if len(lost) > MOST_UNUSABLE * number:
        raise OwnDataError(f'{text}. That is more than {MOST_UNUSABLE:.0%}')
    notes.append(f'{text}. They are left out')


def split_of(path: PurePath) -> str:
    """'train', 'val' or 'test' if a name in the path says so, the last one first; else an empty string."""
    for part in reversed(path.parts):
        found = {WORDS[word] for word in re.findall('[a-z]+', part.lower()) if word in WORDS}
        if len(found) == 1:
            return found.pop()
    return ''


def nearest(candidates: list[Path], name: str, near: Path, split: str, files: Files) -> Path | None:
    """The one of several files of the same name that is meant; None if nothing tells.

    Args:
        candidates: the files.
        name: the path as the annotations write it, with slashes.
        near: folder of the annotations.
        split: of the annotations.
        files: the folder.
    """
    wanted = PurePath(name).parts

    def rank(path: Path) -> tuple[int, bool, int]:
        parts = path.parts
        same = sum(1 for n in range(1, 1 + min(len(wanted), len(parts))) if wanted[-n:] == parts[-n:])
        common = os.path.commonpath([path, near])
        return same, bool(split) and split_of(files.below_root(path.parent)) == split, len(common)

    ranked = sorted(candidates, key=rank, reverse=True)
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        return None
    return ranked[0] if ranked else None


def _walk(root: Path) -> Iterable[Path]:
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if not name.startswith(('.', '__MACOSX')))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith('.'))


def _grouped(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups
