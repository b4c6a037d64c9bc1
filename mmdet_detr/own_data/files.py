"""The files of a folder, the images among them, and what the names of folders say about training and validation."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path, PurePath

from ..errors import UserError

IMAGES = frozenset(['.bmp', '.jpeg', '.jpg', '.jp2', '.mpo', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'])
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
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.all = list(_walk(root))
        self.images = [path for path in self.all if is_image(path)]

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


def is_image(path: PurePath) -> bool:
    return path.suffix.lower() in IMAGES


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
