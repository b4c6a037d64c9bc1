"""Work of ``mim run mmdet_detr predict``."""

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import ConfigError, UserError
from ..inference import Detector, Result, UnreadableImageError
from ..inference.draw import Painter
from ..inference.sources import Images, Video, VideoFrames, find_input
from ..inference.tiles import detect_in_tiles
from ..inference.write import DetectionFiles
from ..visualization.fonts import missing_letters
from .fail import errors_in_one_line
from .named_model import load_named_model

T = TypeVar('T')


def main(args: argparse.Namespace) -> None:
    """Write what is found.

    The exit code is 1 if one of the images could not be read, or the work was stopped, and 2 if nothing could be read.
    """
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # a broken video is one line of ours
    cv2.setLogLevel(0)
    with errors_in_one_line('predict'):
        if args.out.exists() and not args.out.is_dir():
            raise ConfigError(f'{args.out} is a file: name a folder by --out')
        found = find_input(args.input)
        _refuse_to_overwrite(found, args.out)
        frames = VideoFrames(found) if isinstance(found, Video) else None
        work = _Work(load_named_model(args, 'by --checkpoint'), args)
        if letters := missing_letters(work.detector.classes):
            print(f'predict: no font has the letters {letters!r}: install one, such as Noto Sans CJK', file=sys.stderr)
        args.out.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(found, Images):
                complete = work.on_images(found)
            else:
                assert frames is not None
                complete = work.on_video(found, frames)
        except KeyboardInterrupt:  # the files are complete as far as it came; a camera has no other end
            complete = frames is not None and frames.is_camera
    pictures = f'video {args.out / found.name}' if isinstance(found, Video) else f'pictures in {args.out}'
    counts = f'{work.num_detections} found in {work.num_images} {"images" if frames is None else "frames"}'
    print(f'{counts}: {pictures}, with detections.json and detections.csv')
    sys.exit(0 if complete else 1)


def _refuse_to_overwrite(found: Images | Video, folder: Path) -> None:
    pairs = zip(found.paths, found.names, strict=True) if isinstance(found, Images) else [(found.source, found.name)]
    for source, name in pairs:
        if Path(str(source)).resolve() == (folder / name).resolve():
            raise UserError(f'{source} would be overwritten: choose another --out')


class _Work:
    """Detects, draws and writes, a batch at a time."""

    def __init__(self, detector: Detector, args: argparse.Namespace) -> None:
        self.detector = detector
        self.args = args
        self.painter = Painter(detector.classes, detector.palette)
        self.num_images = self.num_detections = 0

    def on_images(self, found: Images) -> bool:
        """Write pictures of images; returns whether all could be read."""
        failed: list[str] = []
        with DetectionFiles(self.args.out) as files, _progress('images', len(found.paths)) as (console, advance):
            readable = self._readable(found, failed, console, advance)
            for batch in _batches(readable, self.args.batch):
                results = self._detect([image for _, image in batch])
                for (name, image), result in zip(batch, results, strict=True):
                    picture = self.args.out / name
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    _save(picture, self.painter.draw(image, result))
                    self._count(files, name, result)
                    advance()
        if not self.num_images:
            of_all = f'none of {len(failed)} images can be read: ' if len(failed) > 1 else ''
            raise UnreadableImageError(f'{of_all}{failed[0]}')
        return not failed

    def on_video(self, video: Video, frames: VideoFrames) -> bool:
        """Write a video with what is found in every frame."""
        batch_size = 1 if frames.is_camera else self.args.batch
        with (
            DetectionFiles(self.args.out) as files,
            _VideoFile(self.args.out / video.name, frames.rate) as file,
            _progress(video.name, frames.count) as (_, advance),
        ):
            for batch in _batches(frames, batch_size):
                width = self.painter.legend_width(batch[0])
                for frame, result in zip(batch, self._detect(batch), strict=True):
                    file.write(self.painter.draw(frame, result, width))
                    self._count(files, video.title, result, self.num_images)
                    advance()
        if not self.num_images:
            raise UserError(f'{video.title} has no frames')
        if frames.count is not None and self.num_images < frames.count:
            print(f'predict: {video.title} says that it has {frames.count} frames: it is cut off', file=sys.stderr)
        return True

    def _readable(
        self, found: Images, failed: list[str], console: Console, advance: Callable[[], None]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Names and pixels of the images; a warning for each of the others, unless none can be read."""
        anything = False
        for path, name in zip(found.paths, found.names, strict=True):
            try:
                image = self.detector.read(path)
            except UnreadableImageError as error:
                failed.append(str(error))
                advance()
                if anything:
                    _warn(console, failed[-1:])
                continue
            if not anything:
                _warn(console, failed)
            anything = True
            yield name, image

    def _detect(self, images: list[np.ndarray]) -> list[Result]:
        threshold, batch = self.args.score_thr, self.args.batch
        if self.args.tiles is None:
            return self.detector(images, threshold, batch)
        return [detect_in_tiles(self.detector, image, self.args.tiles, threshold, batch) for image in images]

    def _count(self, files: DetectionFiles, name: str, result: Result, frame: int | None = None) -> None:
        files.write(name, result, frame)
        self.num_images += 1
        self.num_detections += len(result)


class _VideoFile:
    """A video that is opened with its first picture, whose size all others have."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> '_VideoFile':
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, picture: np.ndarray) -> None:
        if self._writer is None:
            size = picture.shape[1], picture.shape[0]
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*'mp4v'), self.rate, size)
            if not self._writer.isOpened():
                raise UserError(f'{self.path} cannot be written')
        self._writer.write(picture)


@contextlib.contextmanager
def _progress(what: str, total: int | None) -> Iterator[tuple[Console, Callable[[], None]]]:
    """A bar of progress on stderr: what prints above it, and what counts a step."""
    console = Console(stderr=True, highlight=False, markup=False)
    end = TimeElapsedColumn() if total is None else TimeRemainingColumn()
    with Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), end, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield console, lambda: bar.advance(task)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _warn(console: Console, reasons: list[str]) -> None:
    for reason in reasons:
        console.print(f'predict: left out {reason}', soft_wrap=True)


def _save(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), picture):
        raise UserError(f'{path} cannot be written')
