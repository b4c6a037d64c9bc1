"""Compares the PNGs of a panoptic file with its segments."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from ..datasets.annotations import Document
from ..datasets.images import BrokenImageError, decode, inspect_image
from ..datasets.problems import Kind, Problem
from ..datasets.segment_map import read_segment_map

SHOWN = 4  # colours of no segment that a problem names


class SegmentMaps:
    """The PNGs of a data set.

    Args:
        folder: where they are; None for a file that is not panoptic, of which nothing is wrong then.
        document: what :func:`~mmdet_detr.datasets.panoptic_annotations.check_panoptic` returns.
    """

    def __init__(self, folder: str | None, document: Document) -> None:
        self.folder = folder
        self.empty: set[int] = set()  # ids of segments without a pixel
        self.segments: dict[int | str, list[dict]] = defaultdict(list)
        if folder is not None:
            for entry in document['annotations']:
                self.segments[entry['image_id']].append(entry)

    def problems(self, image: dict, decoding: bool) -> list[Problem]:
        """Read the PNG of an image, with ``decoding`` also by Pillow; several threads may do so at once."""
        if self.folder is None or 'segment_map' not in image:
            return []
        path, size = Path(self.folder) / image['segment_map'], (image['width'], image['height'])
        try:
            inspect_image(path, size=size, ignore_orientation=True)  # OpenCV fills up what is cut off
            if decoding:
                decode(path)
        except BrokenImageError as error:
            return [Problem(Kind.BROKEN_IMAGE, str(error), str(path), image=image['id'])]
        try:
            colours, counts = np.unique(read_segment_map(str(path), size), return_counts=True)
        except BrokenImageError as error:
            reason = str(error).removeprefix(f'{path}: ')
            return [Problem(Kind.BROKEN_IMAGE, reason, str(path), image=image['id'])]
        pixels = dict(zip(colours.tolist(), counts.tolist(), strict=True))
        found = []
        for entry in self.segments.get(image['id'], []):
            if not pixels.pop(entry['segment_id'], 0):
                self.empty.add(entry['id'])
                reason = f'segment {entry["segment_id"]}, category_id {entry["category_id"]}'
                found.append(Problem(Kind.SEGMENT_WITHOUT_PIXELS, reason, str(path), image=image['id']))
        pixels.pop(0, 0)
        if pixels:
            names = ', '.join(map(str, list(pixels)[:SHOWN])) + (', ...' if len(pixels) > SHOWN else '')
            reason = f'{sum(pixels.values())} pixels of {names}, which the annotation does not list'
            found.append(Problem(Kind.UNLISTED_PIXELS, reason, str(path), image=image['id']))
        return found

    def leave_out_empty(self, document: Document) -> None:
        """Take the segments without a pixel out of the document; the problems name them."""
        if self.empty:
            document['annotations'] = [e for e in document['annotations'] if e['id'] not in self.empty]
