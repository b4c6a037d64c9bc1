"""Checks the annotations and the images of a data set, and finds images that two of them share."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from ..datasets.annotations import (
    AnnotationError,
    Document,
    check_annotations,
    check_classes,
    read_annotations,
)
from ..datasets.ground_truth import ending_problems, evaluation_problems
from ..datasets.images import BrokenImageError, decode, inspect_image, require_file
from ..datasets.panoptic_annotations import check_panoptic, restore_panoptic, split_classes
from ..datasets.problems import Kind, Problem
from .segments import SegmentMaps
from .sources import Source

CHUNK = 64  # images that a worker takes at once


@dataclass
class SplitReport:
    """The findings in one data set.

    Attributes:
        source: the data set.
        clean: its annotation file without the entries that cannot be used; of a panoptic file, the list of segments
            that :func:`~mmdet_detr.datasets.panoptic_annotations.check_panoptic` returns.
        problems: all that was found, in the order of the files.
        hashes: SHA-256 of the images that could be read, by file name.
    """

    source: Source
    clean: Document
    problems: list[Problem] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def objects(self) -> Counter:
        """Boxes of each image, by its id; without crowds and boxes to ignore, unless the file is panoptic."""
        counts = Counter({image['id']: 0 for image in self.clean['images']})
        counts.update(entry['image_id'] for entry, _ in self._trained())
        return counts

    @property
    def boxes(self) -> Counter:
        """Boxes of each class of the config, without crowds and boxes to ignore."""
        counts = Counter(dict.fromkeys(self.source.classes, 0))
        counts.update(name for _, name in self._trained())
        return counts

    def cleaned(self) -> Document:
        """The annotation file without the entries and the images that cannot be used.

        Ids of images or categories get new numbers where they are of several types: pycocotools cannot sort those.
        """
        images = [image for image in self.clean['images'] if image['file_name'] in self.hashes]
        ids, classes = _of_one_type(images), _of_one_type(self.clean['categories'])
        clean = {
            **self.clean,
            'images': [{**image, 'id': ids[image['id']]} for image in images],
            'categories': [{**category, 'id': classes[category['id']]} for category in self.clean['categories']],
            'annotations': [
                {**entry, 'image_id': ids[entry['image_id']], 'category_id': classes[entry['category_id']]}
                for entry in self.clean['annotations']
                if entry['image_id'] in ids
            ],
        }
        return clean if self.source.segment_maps is None else restore_panoptic(clean)

    def _trained(self) -> Iterator[tuple[dict, str]]:
        """Annotations that a detector learns, with the names of their classes."""
        known = {c['id']: c['name'] for c in self.clean['categories'] if c['name'] in self.source.classes}
        panoptic = self.source.segment_maps is not None
        for entry in self.clean['annotations']:
            if entry['category_id'] in known and (panoptic or not (entry['iscrowd'] or entry.get('ignore'))):
                yield entry, known[entry['category_id']]


def _of_one_type(entries: list[dict]) -> dict[int | str, int | str]:
    """The new id of each old one."""
    ids = [entry['id'] for entry in entries]
    return dict(zip(ids, ids if len(set(map(type, ids))) < 2 else range(1, len(ids) + 1), strict=True))


def check_split(
    source: Source,
    num_classes: int | None,
    num_queries: int | None,
    decoding: bool,
    pool: Executor,
    advance: Callable[[int, int], None],
    num_things: int | None = None,
) -> SplitReport:
    """Check one data set.

    Args:
        source: the data set.
        num_classes: classes of the model; None if its config does not say.
        num_queries: queries of the model; None if it has none.
        decoding: whether to decode the images.
        pool: reads the images.
        advance: called with the number of images done, and of all.
        num_things: thing classes of a panoptic model; None if its config does not say.

    Returns:
        The findings. An annotation file that cannot be read is one of the problems and raises no error.
    """
    try:
        document = read_annotations(source.ann_file, labelled='train' in source.splits)
    except AnnotationError as error:
        nothing: Document = {'images': [], 'annotations': [], 'categories': []}
        return SplitReport(source, nothing, [Problem(Kind.NO_ANNOTATIONS, str(error), source.ann_file)])
    evaluated = set(source.splits) != {'train'} and source.evaluated
    panoptic = source.segment_maps is not None
    if panoptic:
        labelled = 'train' in source.splits or (evaluated and bool(document['annotations']))
        clean, problems = check_panoptic(document, source.allow_outside, labelled)
    else:
        clean, problems = check_annotations(document, source.allow_outside, source.masks)
    if evaluated:
        worse = ending_problems(problems) if panoptic else evaluation_problems(document, problems, source.classes)
        known = set(worse)
        problems = worse + [problem for problem in problems if problem not in known]
    report = SplitReport(source, clean, problems)
    problems += _check_classes(report, num_classes, num_things)
    problems += _check_images(report, decoding, pool, advance)
    counts = report.objects
    empty = sum(count == 0 for count in counts.values())
    unlabelled = source.splits == ('test',) and counts  # a test set may have no labels
    if empty == len(counts) and not unlabelled:
        reason = 'not one image has a box of a class of the config'
        problems.append(Problem(Kind.NO_BOXES, reason, source.ann_file))
    elif empty:
        problems.append(Problem(Kind.IMAGES_WITHOUT_BOXES, f'{empty} of {len(counts)}', source.ann_file, count=empty))
    crowded = {image: count for image, count in counts.items() if num_queries and count > num_queries}
    if crowded:
        reason = f'{len(crowded)} images; {max(crowded.values())} at most, {num_queries} queries'
        problems.append(Problem(Kind.MORE_OBJECTS, reason, source.ann_file, count=len(crowded)))
    return report


def _check_classes(report: SplitReport, num_classes: int | None, num_things: int | None) -> Iterator[Problem]:
    classes, where = report.source.classes, report.source.ann_file
    panoptic = report.source.segment_maps is not None
    yield from check_classes(report.clean, classes, in_order=not panoptic)
    if panoptic:
        kinds = (report.source.thing_classes, report.source.stuff_classes)
        things, _, found = split_classes(report.clean['categories'], classes, *kinds)
        yield from found
        if not found and num_things not in (None, len(things)):
            reason = f'the model has {num_things}, the data set {len(things)} classes of things'
            yield Problem(Kind.NUM_CLASSES, reason, where)
    if num_classes is not None and num_classes != len(classes):
        yield Problem(Kind.NUM_CLASSES, f'the model has {num_classes}, the data set {len(classes)} classes', where)
    boxes = report.boxes
    used = Counter(entry['category_id'] for entry in report.clean['annotations'])
    for category in report.clean['categories']:
        if category['name'] not in classes and used[category['id']]:
            reason = f'{category["name"]}: {used[category["id"]]} boxes'
            yield Problem(Kind.UNUSED_CATEGORY, reason, where)
        elif category['name'] in classes and not boxes[category['name']]:
            yield Problem(Kind.CLASS_WITHOUT_BOXES, category['name'], where)


def _check_images(
    report: SplitReport, decoding: bool, pool: Executor, advance: Callable[[int, int], None]
) -> Iterator[Problem]:
    source, images = report.source, report.clean['images']
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    done = 0
    by_hash: dict[str, list[str]] = defaultdict(list)
    maps = SegmentMaps(source.segment_maps, report.clean)

    def read(chunk: list[dict]) -> list[tuple[str, str, list[Problem]]]:
        return [(image['file_name'], *_read_one(image, source, decoding, maps)) for image in chunk]

    for results in pool.map(read, chunks):
        for name, digest, found in results:
            yield from found
            if not any(problem.kind is Kind.BROKEN_IMAGE for problem in found):
                report.hashes[name] = digest
                by_hash[digest].append(name)
        done += len(results)
        advance(done, len(images))
    maps.leave_out_empty(report.clean)
    for names in by_hash.values():
        if len(set(names)) > 1:
            yield Problem(Kind.SAME_IMAGE, ', '.join(names[:4]), source.ann_file)


def _read_one(image: dict, source: Source, decoding: bool, maps: SegmentMaps) -> tuple[str, list[Problem]]:
    """SHA-256 of an image, and what is wrong with it and with its PNG of segments."""
    path, digest, found = Path(source.images) / image['file_name'], '', []
    try:
        if source.own_loader:
            require_file(path)
        else:
            inspect_image(path, source.max_pixels, (image['width'], image['height']), source.ignore_orientation)
            if decoding:
                decode(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (BrokenImageError, OSError) as error:
        found.append(Problem(Kind.BROKEN_IMAGE, str(error), str(path)))
    return digest, found + maps.problems(image, decoding)


def check_overlap(reports: list[SplitReport]) -> list[Problem]:
    """Images of training that validation or test read too, by file and by content."""
    problems = []
    training = [report for report in reports if 'train' in report.source.splits]
    names = {digest: name for report in training for name, digest in report.hashes.items()}
    files = {_resolved(report, name) for report in training for name in report.hashes}
    for report in reports:
        if report in training:
            if len(report.source.splits) > 1:
                reason = f'it is all of {report.source.name}'
                problems.append(Problem(Kind.TRAINED_ON, reason, report.source.ann_file))
            continue
        for name, digest in report.hashes.items():
            path = _resolved(report, name)
            if path in files:
                problems.append(Problem(Kind.TRAINED_ON, 'the same file', path))
            elif digest in names:
                problems.append(Problem(Kind.TRAINED_ON, f'the same content as {names[digest]}', path))
    return problems


def _resolved(report: SplitReport, name: str) -> str:
    return str(Path(report.source.images, name).resolve())
