"""A COCO data set that trains on what is sound, and reports what is not."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from ..errors import ConfigError, one_line
from ..log import warn
from ..registry import DATASETS
from .annotations import Document, check_annotations, check_classes, read_annotations, require_names
from .ground_truth import evaluation_problems
from .images import MAX_PIXELS, BrokenImageError, decodes_files, inspect_image, is_local, require_file
from .palette import complete_palette
from .problems import Problem, summary
from .randomness import seed_transforms
from .seeded_sampler import SeededIndex

SHOWN = 20  # problems in the log; all of them are in the report of check_data
CLEAN = 'mim run mmdet_detr check_data CONFIG --clean FOLDER writes one without these'
UNSEEN, SOUND, BROKEN = range(3)
ENOUGH = 1000  # the share of broken images is taken of at least that many, or of all
ALL_BROKEN = 20  # without a sound image among that many, the pipeline is broken and not the images


class BrokenDataError(ConfigError):
    """More of the data is broken than the config allows."""


@DATASETS.register_module()
class RobustCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset``, for data that nobody has checked.

    Entries of the annotation file that cannot be used are left out and counted in the log; mmdet then finds none that
    it would leave out without a word. An image that cannot be read, or has another size than the annotations say, is
    named in the log with its reason, and another one takes its place. In validation, a broken image ends the run at
    its start, and so does an annotation file that pycocotools cannot evaluate. Of images that a transform of your own
    reads, without mmcv's ``LoadImageFromFile``, only the existence is checked. Samples are augmented by the seed of
    their draw where the sampler is a :class:`~mmdet_detr.datasets.SeededSampler`.

    Args:
        max_broken: share of annotations, of images in the file, and of the images that a rank has read in training,
            above which the run ends with a BrokenDataError; between 0 and 1.
        max_pixels: an image of more pixels counts as broken, before it is decoded.
        allow_outside: whether file names may be absolute or lead out of the image folder.
        evaluated: whether, in ``test_mode``, an evaluator reads the annotation file too, as CocoMetric does.
        kwargs: arguments of ``CocoDataset``.

    Raises:
        ConfigError: ``max_broken`` is no share, or the classes are a string.
        AnnotationError: the annotation file does not have the structure of COCO's.
        BrokenDataError: too much is broken, or a label would be that of another class.
    """

    def __init__(
        self,
        *args: Any,
        max_broken: float = 0.1,
        max_pixels: int = MAX_PIXELS,
        allow_outside: bool = False,
        evaluated: bool = True,
        **kwargs: Any,
    ) -> None:
        if not 0 <= max_broken <= 1:
            raise ConfigError(f'max_broken={max_broken} is no share between 0 and 1')
        self.max_broken = max_broken
        self.max_pixels = max_pixels
        self.allow_outside = allow_outside
        self.evaluated = evaluated
        self.problems: list[Problem] = []
        self.num_objects = 0  # in all images, once they are read
        self._found = torch.empty(0, dtype=torch.uint8)  # state of each image, shared by all workers of a data loader
        self._seed: tuple[int, ...] | None = None  # seed of the sample that is read
        super().__init__(*args, **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        loaded = super()._load_metainfo(metainfo)
        require_names(loaded.get('classes'))
        given = metainfo or {}
        known = () if 'classes' in given and 'palette' not in given else loaded.get('palette', ())
        if not isinstance(known, str):  # a name of mmdet's, such as 'random'
            loaded['palette'] = complete_palette(known, len(loaded.get('classes') or ()))
        return loaded

    # CocoDataset calls this name with a path.
    def COCOAPI(self, path: str) -> COCO:
        """Index the sound entries of a file."""
        coco = COCO()
        coco.dataset = self._read(path)
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def _read(self, path: str) -> Document:
        """The sound entries of a file, after a report of the others."""
        given = read_annotations(path, labelled=not self.test_mode)
        masks = any(getattr(step, 'with_mask', False) for step in self.pipeline.transforms)
        document, self.problems = check_annotations(given, self.allow_outside, masks, join=not self.test_mode)
        self._report(document)
        if masks and document['annotations'] and not any(entry['segmentation'] for entry in document['annotations']):
            raise BrokenDataError(
                f'{self.ann_file}: the pipeline loads masks, and no annotation has a segmentation: set with_mask=False'
            )
        classes = self.metainfo['classes']
        if not self.test_mode or self.evaluated:
            self._require_none(check_classes(document, classes))
        if self.test_mode and self.evaluated:
            self._require_ground_truth(given, evaluation_problems(given, self.problems, classes))
        return document

    def _require_none(self, problems: list[Problem]) -> None:
        for problem in problems:
            raise BrokenDataError(f'{self.ann_file}: {problem}: metainfo of the config has to fit the file')

    def _require_ground_truth(self, given: Document, found: list[Problem]) -> None:
        fatal = [problem for problem in found if problem.fatal]
        if fatal:
            raise BrokenDataError(
                f'{self.ann_file} cannot be evaluated: {summary(fatal)}; the first: '
                f'{fatal[0]}. {CLEAN}; evaluated=False is for evaluators that do not read it'
            )
        for problem in found:
            warn(f'{self.ann_file}: {problem}')
        if not given['annotations']:
            warn(f'{self.ann_file} has no annotations: it will evaluate to an AP of -1')

    def _report(self, document: Document) -> None:
        if not self.problems:
            return
        warn(f'{self.ann_file}: {summary(self.problems)}')
        for problem in self.problems[:SHOWN]:
            warn(f'{self.ann_file}: {problem}')
        for name in ('images', 'annotations'):
            lost = len({(p.place, p.index) for p in self.problems if p.fatal and p.place.startswith(name)})
            share = lost / max(1, lost + len(document[name]))
            if share > self.max_broken:
                raise BrokenDataError(
                    f'{self.ann_file}: {lost} of the {name}, {share:.0%}, cannot be used, more than '
                    f'max_broken={self.max_broken:g}: {summary(self.problems)}. {CLEAN}'
                )

    def parse_data_info(self, raw_data_info: dict) -> dict:
        info = super().parse_data_info(raw_data_info)
        for instance in info['instances']:
            instance.setdefault('mask', [])  # mmdet ignores it where masks are loaded, like short polygons
        return info

    def filter_data(self) -> list[dict]:
        kept = super().filter_data()
        if not kept:
            why = summary(self.problems) or 'none of its images has a box of a class of the config'
            raise BrokenDataError(f'{self.ann_file}: no image is left to read: {why}')
        self.num_objects = sum(len(info['instances']) for info in kept)
        return kept

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        super().full_init()
        self._found = torch.full((len(self),), UNSEEN, dtype=torch.uint8).share_memory_()
        if self.test_mode:
            self._check_all()

    def _check_all(self) -> None:
        """Look at all images before the first is needed, since validation can leave none out."""
        broken = []
        for index in range(len(self)):
            info = self.get_data_info(index)
            try:
                self._inspect(info)
            except BrokenImageError as error:
                broken.append(one_line(f'{info["img_path"]}: {error}'))
        if broken:
            more = f', and {len(broken) - 3} more' if len(broken) > 3 else ''
            raise BrokenDataError(
                f'{self.ann_file}: validation needs all its images: {"; ".join(broken[:3])}{more}. {CLEAN}'
            )

    def prepare_data(self, idx: int) -> Any:
        """The sample of an index after the pipeline; None in training if it cannot be read."""
        self._seed = idx.seed if isinstance(idx, SeededIndex) else None
        if self._seed:
            seed_transforms(self._seed)
        if self.test_mode:
            return self._prepare_for_test(int(idx))
        if len(self._found) != len(self):  # get_subset_ made this data set smaller
            self._found = torch.full((len(self),), UNSEEN, dtype=torch.uint8)
        found = self._found[int(idx)]
        if found == BROKEN:
            return None
        info = self.get_data_info(idx)
        try:
            if found == UNSEEN:  # a sound image needs no second look
                self._inspect(info)
            sample = self.pipeline(info)
            found.fill_(SOUND)
            return sample
        except Exception as error:  # decoders and transforms raise anything on unchecked files
            self._skip(int(idx), info['img_path'], error)
            return None

    def _prepare_for_test(self, index: int) -> Any:
        try:
            return super().prepare_data(index)
        except Exception as error:  # decoders and transforms raise anything on unchecked files
            path = self.get_data_info(index)['img_path']
            reason = one_line(f'{path} cannot be read: {type(error).__name__}: {error}')
            raise BrokenDataError(f'{reason}; validation needs all its images') from error

    def _inspect(self, info: dict[str, Any]) -> None:
        path = info['img_path']
        transforms = self.pipeline.transforms
        loader = next((t for t in transforms if isinstance(t, LoadImageFromFile)), None)
        if not is_local(path, getattr(loader, 'backend_args', None) or getattr(loader, 'file_client_args', None)):
            return  # on another storage, the head of a file may cost as much as all of it
        if transforms and not any(decodes_files(type(t)) for t in transforms):
            require_file(path)
            return
        as_stored = 'ignore_orientation' in getattr(loader, 'color_type', '')
        inspect_image(path, self.max_pixels, (info['width'], info['height']), as_stored)

    def _skip(self, index: int, path: str, error: Exception) -> None:
        reason = one_line(error if isinstance(error, BrokenImageError) else f'{type(error).__name__}: {error}')
        self._found[index] = BROKEN
        broken, sound = (int((self._found == kind).sum()) for kind in (BROKEN, SOUND))
        read = broken + sound
        warn(f'{path} is left out: {reason} ({broken} of {read} images so far)')
        if broken > self.max_broken * max(read, min(len(self), ENOUGH)):
            share = f'more than max_broken={self.max_broken:g}'
        elif broken >= min(ALL_BROKEN, len(self)) and not sound:
            share = 'every one so far'
        else:
            return
        last = one_line(path)
        raise BrokenDataError(
            f'{broken} of {read} images cannot be used, {share}; the last: {last}: {reason}'
        ) from error

    def _rand_another(self) -> int:
        if not self._seed:
            return int(np.random.randint(len(self)))
        seed = (*self._seed, 1)  # a seed of its own, since nobody knows where the broken sample stopped drawing
        seed_transforms(seed)
        return SeededIndex.of(np.random.randint(len(self)), seed)
