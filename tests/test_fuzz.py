"""Damaged files through the loaders that read them: nothing but this package's own errors comes out.

Each kind of file gets MMDET_DETR_FUZZ_SECONDS (5, and 40 in the slow form), from MMDET_DETR_FUZZ_SEED on; outcomes are
counted in the JSON file that MMDET_DETR_FUZZ_OUT names.
"""

import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS
from mmengine.logging.history_buffer import HistoryBuffer
from PIL import Image
from safetensors.torch import save_file

from mmdet_detr.checkpoints import CheckpointError
from mmdet_detr.checkpoints.files import load_from_local
from mmdet_detr.datasets import BrokenDataError
from mmdet_detr.datasets.annotations import AnnotationError

SECONDS = float(os.environ.get('MMDET_DETR_FUZZ_SECONDS', '5'))
SEED = int(os.environ.get('MMDET_DETR_FUZZ_SEED', '0'))
OUT = os.environ.get('MMDET_DETR_FUZZ_OUT')
ROUND = 200  # examples with one seed
TIMES = pytest.mark.parametrize(
    'seconds', [pytest.param(SECONDS, id='short'), pytest.param(40.0, id='long', marks=pytest.mark.slow)]
)
SIZE = (40, 30)
RANDOM = np.random.default_rng(0)


def fuzz(kind: str, files: st.SearchStrategy[bytes], read: Callable[[bytes], str], seconds: float) -> Counter:
    """Read damaged copies until the time is over, and count what came out."""
    outcomes: Counter = Counter()
    end, number = time.monotonic() + seconds, SEED

    @settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(files)
    def run(content: bytes) -> None:
        outcomes[read(content)] += 1

    while time.monotonic() < end:
        seed(number)(run)()
        number += 1
    if OUT:
        path = Path(OUT)
        counts = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**counts, kind: dict(outcomes.most_common())}, indent=1) + '\n')
    return outcomes


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A file with bytes overwritten, put in, taken out, repeated or cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        stop = start + draw(st.integers(0, 8))
        content[start:stop] = draw(st.binary(max_size=8) | st.just(bytes(content[start:stop]) * 3))
    return bytes(content[: draw(st.just(len(content)) | st.integers(0, len(content)))])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(['../0.jpg', 1e400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged_documents(draw: st.DrawFn) -> bytes:
    """An annotation file with entries and values replaced, doubled or gone."""
    root = document()
    for _ in range(draw(st.integers(0, 3))):
        place: list | dict = root
        while True:
            key = draw(st.sampled_from(range(len(place)) if isinstance(place, list) else sorted(place)))
            if not isinstance(place[key], list | dict) or not place[key] or draw(st.integers(0, 2)) == 0:
                break
            place = place[key]
        match draw(st.integers(0, 3)):
            case 0 if isinstance(place, list):
                place.append(place[key])
            case 1 if len(place) > 1:
                del place[key]
            case _:
                place[key] = draw(values)
    return json.dumps(root).encode()


def own_line(error: Exception, path: Path) -> None:
    """Our errors are one line that names the file."""
    assert '\n' not in str(error)
    assert path.name in str(error)


def picture(kind: str, mode: str = 'RGB', **options) -> bytes:
    depth = len(Image.new(mode, (1, 1)).getbands())
    pixels = RANDOM.integers(0, 256, (SIZE[1], SIZE[0], depth), dtype=np.uint8).squeeze(2 if depth == 1 else ())
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, kind, **options)
    return stream.getvalue()


def document() -> dict:
    boxes = [[1, 2, 10, 12], [5.5, 0, 20, 30]]
    return {
        'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': SIZE[0], 'height': SIZE[1]} for i in range(2)],
        'categories': [{'id': 3, 'name': 'dog'}],
        'annotations': [
            {
                'id': i,
                'image_id': i,
                'category_id': 3,
                'bbox': box,
                'area': 9.0,
                'iscrowd': 0,
                'segmentation': [[1, 2, 9, 8, 1, 6]],
            }
            for i, box in enumerate(boxes)
        ],
    }


def data_set(folder: Path, **options) -> torch.utils.data.Dataset:
    pipeline = [
        {'type': 'LoadImageFromFile'},
        {'type': 'LoadAnnotations', 'with_bbox': True},
        {'type': 'PackDetInputs'},
    ]
    return DATASETS.build(
        {
            'type': 'mmdet_detr.RobustCocoDataset',
            'ann_file': str(folder / 'file.json'),
            'data_prefix': {'img': str(folder)},
            'metainfo': {'classes': ('dog',)},
            'pipeline': pipeline,
            'max_broken': 1.0,
            **options,
        }
    )


def evaluate(path: Path, data: torch.utils.data.Dataset) -> None:
    """What passed the data set in validation, pycocotools evaluates."""
    metric = CocoMetric(ann_file=str(path))
    metric.dataset_meta = data.metainfo
    boxes = torch.tensor([[1.0, 2.0, 11.0, 14.0]])
    found = {'bboxes': boxes, 'scores': torch.ones(1), 'labels': torch.zeros(1, dtype=torch.long)}
    samples = []
    for i in range(len(data)):
        info = data.get_data_info(i)
        samples.append({'img_id': info['img_id'], 'ori_shape': SIZE[::-1], 'pred_instances': found})
    metric.process({}, samples)
    metric.evaluate(len(data))


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    (tmp_path / 'file.json').write_text(json.dumps(document()))
    for name in ('0.jpg', '1.jpg'):
        (tmp_path / name).write_bytes(picture('JPEG'))
    before = sorted(tmp_path.iterdir())
    yield tmp_path
    assert sorted(tmp_path.iterdir()) == before  # nothing is left behind


@TIMES
def test_annotations(folder, seconds):
    def read(content: bytes) -> str:
        path = folder / 'file.json'
        path.write_bytes(content)
        try:
            evaluate(path, data_set(folder, test_mode=True))
        except (AnnotationError, BrokenDataError) as error:
            own_line(error, path)
        try:
            found = data_set(folder)
        except (AnnotationError, BrokenDataError) as error:
            own_line(error, path)
            return type(error).__name__
        for i in range(len(found)):
            for instance in found.get_data_info(i)['instances']:
                assert np.isfinite(instance['bbox']).all()
        return f'{len(found)} images, {"with" if found.problems else "without"} problems'

    outcomes = fuzz('annotation files', damaged_documents() | damaged([json.dumps(document()).encode()]), read, seconds)
    assert {'AnnotationError', '2 images, with problems', '2 images, without problems'} <= outcomes.keys()


@TIMES
def test_images(folder, seconds):
    training, validation = data_set(folder), data_set(folder, test_mode=True)

    def read(content: bytes) -> str:
        path = folder / '0.jpg'
        path.write_bytes(content)
        training._found.zero_()
        sample = training.prepare_data(0)
        try:
            assert validation[0]['inputs'].shape[0] == 3
            validated = 'read'
        except BrokenDataError as error:
            own_line(error, path)
            validated = 'refused'
        assert sample is None or sample['inputs'].shape == (3, *SIZE[::-1])
        return f'{"left out" if sample is None else "read"} in training, {validated} in validation'

    kinds = [picture(kind) for kind in ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF')]
    kinds += [picture('JPEG', 'CMYK'), picture('PNG', 'RGBA'), picture('PNG', 'L')]
    outcomes = fuzz('images', damaged(kinds), read, seconds)
    assert len(outcomes) > 1


@TIMES
def test_checkpoints(tmp_path, seconds):
    weights = {
        'state_dict': {'neck.weight': torch.arange(6.0).reshape(2, 3)},
        'meta': {'epoch': 1, 'dataset_meta': {'classes': ('dog',)}},
        'message_hub': {'log_scalars': {'train/loss': HistoryBuffer([1.0, 2.0], [1, 1])}},
    }
    torch.save(weights, tmp_path / 'zip')
    torch.save(weights, tmp_path / 'old', _use_new_zipfile_serialization=False)
    save_file(weights['state_dict'], tmp_path / 'safetensors')
    originals = [(tmp_path / name).read_bytes() for name in ('zip', 'old', 'safetensors')]

    def read(content: bytes) -> str:
        path = tmp_path / 'file.pth'
        path.write_bytes(content)
        try:
            loaded = load_from_local(str(path))
        except CheckpointError as error:
            own_line(error, path)
            return type(error).__name__
        assert isinstance(loaded, dict)
        return 'read'

    outcomes = fuzz('checkpoints', damaged(originals), read, seconds)
    assert {'read'} < outcomes.keys()
