"""What ``predict`` takes as its input: images, a video or a camera."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import cv2
import numpy as np

from ..datasets.images import IMAGES
from ..errors import UserError

GREY = ('.pbm', '.pgm')
VIDEOS = ('.avi', '.gif', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
FRAMES_A_SECOND = 25.0  # where a video or camera does not tell


@dataclass(frozen=True)
class Images:
    """Files or addresses, and the names of their pictures: paths relative to the folder that all are in."""

    paths: list[str]
    names: list[str]


@dataclass(frozen=True)
class Video:
    """A video file or stream, or the number of a camera, and the name of the video to write."""

    source: str | int
    name: str

    @property
    def title(self) -> str:
        """What it is called in files and messages."""
        return f'camera {self.source}' if isinstance(self.source, int) else Path(self.source).name


def find_input(text: str) -> Images | Video:
    """Find what the user means by an input.

    Args:
        text: an image or a video, a folder of images, a pattern such as ``photos/**/*.jpg``, an http(s) address of an
            image, an rtsp address, or the number of a camera. A file that exists is not taken for a pattern.

    Raises:
        UserError: there is nothing of the kind.
    """
    path = Path(text).expanduser()
    suffix = path.suffix.lower()
    if text.isdecimal() and not path.exists():
        return Video(int(text), f'camera_{text}.mp4')
    if '://' in text:
        address = urlparse(text)
        file = Path(unquote(address.path)).name or 'image'
        if address.scheme == 'rtsp' or Path(file).suffix.lower() in VIDEOS:
            return Video(text, f'{Path(file).stem}.mp4')
        if address.scheme not in ('http', 'https'):
            raise UserError(f'{text}: only http, https and rtsp addresses are read')
        return Images([text], [_writable(file)])
    if path.is_file():
        if suffix in VIDEOS:
            return Video(str(path), f'{path.stem}.mp4')
        return Images([str(path)], [_writable(path.name)])
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES and file.is_file())
        if not files:
            raise UserError(f"no images in {path} (folders below it are searched by '{path}/**/*')")
    else:
        found = (Path(file) for file in glob.glob(_without_brackets_of_folders(path), recursive=True))
        files = sorted(file for file in found if file.suffix.lower() in IMAGES and file.is_file())
        if not files:
            raise UserError(f'{text}: no such file or folder, and no image by this pattern')
    folder = os.path.commonpath([file.parent for file in files])
    return Images([str(file) for file in files], [_writable(os.path.relpath(file, folder)) for file in files])


def _without_brackets_of_folders(pattern: Path) -> str:
    """A pattern in which folders that exist, such as ``photos [2024]``, are no patterns themselves."""
    existing = next(folder for folder in pattern.parents if folder.exists())  # at least the current one
    return os.path.join(glob.escape(str(existing)), pattern.relative_to(existing))


def _writable(name: str) -> str:
    """The name of a picture in a format in which OpenCV writes colours."""
    suffix = Path(name).suffix.lower()
    colours = suffix in IMAGES and suffix not in GREY and cv2.haveImageWriter(name)
    return name if colours else f'{name}.png'


class VideoFrames:
    """The frames of a video, one at a time, as (H, W, 3) uint8 BGR.

    Args:
        video: what to open.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, video: Video) -> None:
        self.source = video.source
        self._capture = cv2.VideoCapture(video.source)
        if not self._capture.isOpened():
            raise UserError(f'{video.title} cannot be opened')
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 and not self.is_camera else None
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else FRAMES_A_SECOND

    @property
    def is_camera(self) -> bool:
        return isinstance(self.source, int)

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                read, frame = self._capture.read()
                if not read:
                    return
                yield frame
        finally:
            self._capture.release()
