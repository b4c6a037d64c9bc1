"""The runtime: what mmdet does around a network, by numpy and Pillow alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectors import write_images
from exported import BOXES, CLASSES, METADATA, PANOPTIC, write_onnx, write_openvino
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mmcv import imread
from mmcv.transforms import Compose, LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import MODELS
from PIL import Image

from mmdet_detr.datasets.shortest_side_resize import ShortestSideResize
from mmdet_detr.datasets.shortest_side_resize import official_size as expected_size
from mmdet_detr.export import runtime
from mmdet_detr.export.runtime import Detector, DetectorError
from mmdet_detr.models.masks import panoptic, resize

FILE = Path(runtime.__file__)
WRITERS = {'onnx': write_onnx, 'xml': write_openvino}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes a model in one of the two formats."""
    library = {'onnx': 'onnxruntime', 'xml': 'openvino'}[request.param]
    pytest.importorskip(library)
    return lambda **arguments: WRITERS[request.param](tmp_path / f'detr.{request.param}', **arguments)


@pytest.fixture
def onnx(tmp_path):
    pytest.importorskip('onnxruntime')
    return lambda **arguments: write_onnx(tmp_path / 'detr.onnx', **arguments)


def noise(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def seen(detector: Detector) -> list[dict[str, np.ndarray]]:
    """What the network gets from here on."""
    calls = []

    def run(feeds):
        calls.append({name: value.copy() for name, value in feeds.items()})
        return network.run(feeds)

    network = detector._network
    detector._network = network._replace(run=run)
    return calls


# what is found


def test_boxes_are_in_pixels_of_each_image(write):
    sizes = [(50, 70), (91, 33), (1, 1)]
    results = Detector(write(), batch_size=2, threads=1)([noise(*size, 3) for size in sizes])
    for result, (height, width) in zip(results, sizes, strict=True):
        expected = np.array(BOXES[:2]) * [width, height, width, height]
        assert np.allclose(result.boxes, expected, atol=1e-4)
        assert result.boxes.dtype == result.scores.dtype == np.float32
        assert np.allclose(result.scores, [0.9, 0.6])
        assert result.labels.tolist() == [1, 0]
        assert result.names == ['square', 'circle']
        assert result.masks is result.panoptic is None


def test_thresholds(onnx):
    detector = Detector(onnx(score_thr=0.8))
    image = noise(40, 40, 3)
    counts = [len(detector([image], threshold)[0].scores) for threshold in (None, 0, 0.5, 1)]
    assert counts == [1, 3, 2, 0]
    assert detector([]) == []
    with pytest.raises(DetectorError, match='between 0 and 1, got 50'):
        detector([image], 50)


def test_files_have_exif_applied(onnx, tmp_path):
    write_images(tmp_path)
    (result,) = Detector(onnx())([tmp_path / 'turned.jpg'])  # stored as 60 x 40
    assert np.allclose(result.boxes[0], [10, 30, 30, 60], atol=1e-4)


def test_a_fixed_batch_is_filled_up(write):
    detector = Detector(write(shape=(3, 3, 64, 96), resize=None), batch_size=8)
    calls = seen(detector)
    images = [noise(64, 96, 3), noise(30, 50, 3), noise(1, 1, 3), noise(7, 9, 3)]
    results = detector(images)
    assert [call['images'].shape for call in calls] == [(3, 3, 64, 96)] * 2
    assert calls[1]['sizes'].tolist() == [[7, 9]] * 3
    assert [result.boxes[0].tolist() for result in results] == [
        [24, 32, 72, 64],
        [12.5, 15, 37.5, 30],
        [0.25, 0.5, 0.75, 1],
        [2.25, 3.5, 6.75, 7],
    ]


def test_an_image_that_does_not_fit_is_refused(onnx):
    detector = Detector(onnx(shape=('B', 3, 64, 'W'), resize=None))
    detector([noise(64, 200, 3)])
    with pytest.raises(DetectorError, match=r'an image is 10 x 65 pixels .* takes any x 64'):
        detector([noise(65, 10, 3)])


def test_a_batch_that_would_be_huge_is_split(onnx, monkeypatch):
    detector = Detector(onnx(resize=None), batch_size=3)
    calls = seen(detector)
    monkeypatch.setattr(runtime, 'MAX_INPUT_PIXELS', 10_000)
    detector([noise(400, 16, 3), noise(16, 400, 3), noise(16, 400, 3)])
    assert [call['images'].shape for call in calls] == [(1, 3, 400, 16), (2, 3, 16, 400)]
    with pytest.raises(DetectorError, match=r'101 x 100 pixels .* more than 10000'):
        detector([noise(100, 101, 3)])


@pytest.mark.parametrize('size', [(1, 20_000), (20_000, 1), (4_000, 20_000)])
def test_very_wide_images(onnx, size):
    height, width = size
    (result,) = Detector(onnx(resize={'shortest': 800, 'longest': 1333}))([np.zeros((*size, 3), np.uint8)])
    assert np.allclose(result.boxes[0], [0.25 * width, 0.5 * height, 0.75 * width, height], rtol=1e-5)


# pixels


@pytest.mark.parametrize('channel_order', ['rgb', 'bgr'])
def test_the_input_is_that_of_mmdet_bit_for_bit(onnx, tmp_path, channel_order):
    paths = [tmp_path / name for name in ('a.png', 'b.jpg', 'c.png')]
    for i, (path, size) in enumerate(zip(paths, [(51, 67), (93, 35), (48, 48)], strict=True)):
        Image.fromarray(noise(*size, 3, seed=i)).save(path)
    steps = [
        LoadImageFromFile(),
        ShortestSideResize([48], 90),
        PackDetInputs(meta_keys=('img_shape', 'ori_shape', 'scale_factor')),
    ]
    packed = [Compose(steps)({'img_path': str(path)}) for path in paths]
    preprocessor = MODELS.build(
        {
            'type': 'DetDataPreprocessor',
            'mean': METADATA['mean'],
            'std': METADATA['std'],
            'bgr_to_rgb': channel_order == 'rgb',
            'pad_size_divisor': 16,
        }
    )
    batch = preprocessor({key: [item[key] for item in packed] for key in ('inputs', 'data_samples')})
    detector = Detector(onnx(channel_order=channel_order), batch_size=3)
    calls = seen(detector)
    detector(paths)
    (call,) = calls
    assert call['images'].dtype == np.float32
    assert np.array_equal(call['images'], batch['inputs'].numpy())
    assert call['sizes'].tolist() == [list(sample.img_shape) for sample in batch['data_samples']]


def test_pixels_of_uint8_are_not_normalised(onnx):
    detector = Detector(onnx(uint8=True, resize=None, channel_order='bgr'))
    calls = seen(detector)
    image = noise(20, 30, 3)
    detector([image])
    assert calls[0]['images'].dtype == np.uint8
    assert calls[0]['images'].shape == (1, 3, 32, 32)
    assert np.array_equal(calls[0]['images'][0, :, :20, :30], image.transpose(2, 0, 1))
    assert not calls[0]['images'][0, :, 20:].any()
    assert not calls[0]['images'][0, :, :, 30:].any()


def as_bgr(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[..., ::-1]


def test_files_of_every_kind_have_the_pixels_that_mmdet_reads(tmp_path):
    write_images(tmp_path)
    colour = Image.fromarray(noise(40, 60, 3))
    exif = Image.Exif()
    colour.save(tmp_path / 'colour.jpg')
    colour.convert('L').save(tmp_path / 'grey.jpg')
    colour.convert('CMYK').save(tmp_path / 'print.jpg')
    colour.convert('1').save(tmp_path / 'bits.png')
    colour.save(tmp_path / 'still.gif')
    colour.save(tmp_path / 'colour.bmp')
    colour.save(tmp_path / 'progressive.jpg', progressive=True, subsampling=1)
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        colour.save(tmp_path / f'turned_{orientation}.jpg', exif=exif)
        colour.save(tmp_path / f'turned_{orientation}.webp', exif=exif, lossless=True)
        colour.save(tmp_path / f'turned_{orientation}.tif', exif=exif)
    files = [path for path in sorted(tmp_path.iterdir()) if path.suffix != '.onnx']
    assert len(files) == 38
    for path in files:
        if path.suffix == '.gif' and imread(path) is None:  # OpenCV before 4.11
            continue
        assert np.array_equal(as_bgr(runtime.read_image(path)), imread(path)), path.name
        with Image.open(path) as opened:
            assert np.array_equal(as_bgr(runtime.read_image(opened)), imread(path)), path.name


def test_arrays():
    image = noise(5, 7, 4)
    assert np.array_equal(as_bgr(runtime.read_image(image)), image[..., :3])
    assert np.array_equal(as_bgr(runtime.read_image(image[..., :3])), image[..., :3])
    grey = image[..., :1].repeat(3, 2)
    for array in (image[..., 0], image[..., :1], image[..., 0].astype(np.uint16) * 256 + 255):
        assert np.array_equal(as_bgr(runtime.read_image(array)), grey)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 900), st.none() | st.integers(1, 1400))
def test_sizes_are_those_of_the_package(width, height, shortest, longest):
    expected = expected_size(width, height, shortest, longest)
    assert runtime.official_size(width, height, shortest=shortest, longest=longest) == expected


# masks


lengths = st.integers(1, 40)
grids = st.tuples(lengths, lengths, st.sampled_from([1, 4, 8]), lengths, lengths, lengths, lengths)


def sizes_of(height, width, stride, cut_h, cut_w, out_h, out_w):
    """Sizes of the logits, the input, the image in it, and the original."""
    logits = (-(-height // stride), -(-width // stride))
    return logits, (height, width), (min(cut_h, height), min(cut_w, width)), (out_h, out_w)


@settings(deadline=None, max_examples=150)
@given(grids, st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_masks_are_those_of_torch(grid, count, seed):
    shape, *sizes = sizes_of(*grid)
    logits = np.random.default_rng(seed).normal(0, 3, (count, *shape)).astype(np.float32)
    tensor = torch.from_numpy(logits)
    assert runtime.instance_masks(logits, *sizes).shape == (count, *sizes[2])
    if not count:
        return
    expected = resize.enlarged(tensor, *sizes[:2]).numpy()
    assert np.abs(runtime.enlarged(logits, *sizes[:2]) - expected).max() < 1e-4
    if np.abs(expected).min() > 1e-4:  # else a rounding decides
        assert np.array_equal(
            runtime.instance_masks(logits, *sizes), resize.instance_masks(tensor, *sizes).numpy().astype(bool)
        )


@settings(deadline=None, max_examples=150)
@given(
    grids,
    arrays.arrays(np.int64, st.integers(0, 20), elements=st.integers(0, 3)),
    st.integers(0, 40),
    st.integers(0, 2**32 - 1),
)
def test_panoptic_maps_are_those_of_torch(grid, labels, min_area, seed):
    height, width, stride, *rest = grid
    height, width = -(-height // stride) * stride, -(-width // stride) * stride  # weights without rounding errors
    shape, *sizes = sizes_of(height, width, stride, *rest)
    logits = np.random.default_rng(seed).integers(-50, 50, (len(labels), *shape)).astype(np.float32)
    got = runtime.panoptic_map(logits, labels, 2, 4, min_area, *sizes)
    expected = panoptic.panoptic_map(torch.from_numpy(logits), torch.from_numpy(labels), 2, 4, min_area, *sizes)
    assert got.dtype == np.int64
    assert np.array_equal(got, expected.numpy())


def half_bright() -> np.ndarray:
    image = np.zeros((40, 64, 3), np.uint8)
    image[:, :32] = 255
    return image


def test_masks_of_a_model(write):
    detector = Detector(write(num_masks=2, resize=None, score_thr=0), batch_size=2)
    image = half_bright()
    first, second = detector([image, image[:30, ::-1]])
    assert first.names == ['square', 'circle']  # the third detection has no mask
    assert first.panoptic is None
    assert np.array_equal(first.masks[0], image[..., 0] > 0)
    assert np.array_equal(first.masks[1], image[..., 0] == 0)
    assert np.array_equal(second.masks[0], image[:30, ::-1, 0] > 0)
    assert detector([image], 0.7)[0].masks.shape == (1, 40, 64)
    assert detector([image], 1)[0].masks.shape == (0, 40, 64)


def test_panoptic_map_of_a_model(onnx):
    image = half_bright()
    (result,) = Detector(onnx(num_masks=3, resize=None, **PANOPTIC))([image], 0)
    assert result.names == ['square', 'circle']  # the third is stuff
    assert np.array_equal(result.panoptic, np.where(image[..., 0] > 0, 1001, 1000))
    (result,) = Detector(onnx(num_masks=3, resize=None, **{**PANOPTIC, 'panoptic_score_thr': 0.9}))([image])
    assert np.array_equal(result.panoptic, np.full((40, 64), len(CLASSES)))
    assert len(result.masks) == 2


# pictures


def describe(**changes: object) -> runtime.Metadata:
    entries = {**METADATA, 'palette': [[255, 0, 0], [0, 0, 255], [0, 255, 0]], **changes}
    return runtime.Metadata(**{name: entries[name] for name in runtime.Metadata.__annotations__ if name in entries})


def found(boxes: list[list[float]], masks: np.ndarray | None = None, values: np.ndarray | None = None):
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    labels = np.arange(count) % 3
    names = [CLASSES[label] for label in labels]
    return runtime.Result(np.array(boxes, np.float32).reshape(-1, 4), scores, labels, names, masks, values)


def test_boxes_are_drawn_in_their_colours_on_an_enlarged_picture():
    image = Image.new('RGB', (100, 60), 'grey')
    masks = np.zeros((1, 60, 100), bool)
    masks[:, 30:50, 20:40] = True
    picture = np.asarray(runtime.draw(image, found([[10, 20, 50, 55]], masks), describe()))
    assert picture.shape == (240, 400, 3)
    assert picture[150, 40].tolist() == [255, 0, 0]  # the edge of the box
    assert picture[210, 100].tolist() == [128, 128, 128]  # in the box, beside the mask
    assert picture[160, 120].tolist() == [185, 71, 71]  # 45 % of red
    assert picture[120, 120].tolist() == [255, 255, 255]  # the edge of the mask
    assert np.asarray(image).tolist() == np.full((60, 100, 3), 128).tolist()


def test_maps_have_names_in_their_segments():
    values = np.full((60, 100), 3)  # nothing
    values[:, 50:] = 1001
    picture = np.asarray(runtime.draw(Image.new('RGB', (100, 60), 'grey'), found([], values=values), describe()))
    assert picture[100, 100].tolist() == [128, 128, 128]
    assert picture[20, 220].tolist() == [71, 71, 185]
    assert picture[100, 200].tolist() == [255, 255, 255]
    rows, columns = (picture == [0, 0, 255]).all(2).nonzero()  # the field of the name, in plain blue
    assert abs(columns.mean() - 300) < 10
    assert abs(rows.mean() - 110) < 10


def test_names_never_cover_each_other_or_leave_the_picture(monkeypatch):
    areas = []
    monkeypatch.setattr(runtime.ImageDraw.ImageDraw, 'text', lambda *_, **__: None)
    draw_box = runtime.ImageDraw.ImageDraw.rectangle

    def rectangle(self, box, fill=None, outline=None, width=1):
        if fill is not None:
            areas.append(box)
        draw_box(self, box, fill, outline, width)

    monkeypatch.setattr(runtime.ImageDraw.ImageDraw, 'rectangle', rectangle)
    corners = np.random.default_rng(0).uniform(0, 500, (60, 2))
    boxes = np.concatenate((corners, corners + 60), axis=1).tolist()
    runtime.draw(Image.new('RGB', (600, 600)), found(boxes), describe(palette=None))
    assert 30 < len(areas) < 60
    for i, (left, top, right, bottom) in enumerate(areas):
        assert 0 <= left < right <= 600
        assert 0 <= top < bottom <= 600
        assert all(right <= x1 or x2 <= left or bottom <= y1 or y2 <= top for x1, y1, x2, y2 in areas[:i])


@pytest.mark.parametrize(('size', 'shown'), [((1, 1), (480, 480)), ((20_000, 30), (4000, 6)), ((640, 480), (640, 480))])
def test_pictures_of_any_size(size, shown):
    result = found([[0, 0, *size], [0, 0, 1, 1]], np.ones((2, *size[::-1]), bool))
    assert runtime.draw(Image.new('RGB', size), result, describe()).size == shown


def test_colours_of_many_classes_differ():
    colours = runtime._colours(describe(classes=[str(i) for i in range(80)], palette=None))
    assert len(set(colours)) == 80


# what is refused


@pytest.mark.parametrize(
    ('image', 'reason'),
    [
        (noise(2, 2, 3).astype(np.float32), r'shape \(2, 2, 3\) and type float32 is no image'),
        (noise(2, 2, 5), 'is no image: give .* BGR of uint8'),
        (noise(3, 2, 2)[None], 'is no image'),
        (noise(0, 2, 3), 'is no image'),
        (np.full((2, 2, 3), np.nan), 'float64 is no image'),
        (Image.fromarray(np.zeros((2, 2), np.float32)), 'mode F has no defined range'),
        (7, 'no path, PIL image or array: 7'),
        (None, 'no path, PIL image or array: None'),
    ],
)
def test_images_in_memory_that_are_none(image, reason):
    with pytest.raises(DetectorError, match=reason):
        runtime.read_image(image)


def test_files_that_are_no_images(tmp_path, monkeypatch):
    (tmp_path / 'empty.jpg').touch()
    (tmp_path / 'text.jpg').write_text('no pixels')
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / 'whole.jpg', quality=95)
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / 'whole.png')
    for kind in ('jpg', 'png'):
        whole = (tmp_path / f'whole.{kind}').read_bytes()
        for share in (0.99, 0.5, 0.1):
            (tmp_path / 'cut.jpg').write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(DetectorError, match=r'cut\.jpg: '):
                runtime.read_image(tmp_path / 'cut.jpg')
    for name, reason in (
        ('missing.jpg', 'No such file'),
        ('', 'Is a directory'),
        ('empty.jpg', 'empty'),
        ('text.jpg', 'no image'),
    ):
        with pytest.raises(DetectorError, match=f'{tmp_path / name}: {reason}'):
            runtime.read_image(str(tmp_path / name))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2048)
    assert runtime.read_image(tmp_path / 'whole.jpg').size == (64, 64)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2047)
    with pytest.raises(DetectorError, match=r'whole\.jpg: Image size \(4096 pixels\) exceeds limit of 4094'):
        runtime.read_image(tmp_path / 'whole.jpg')


def test_a_single_image_is_no_list(onnx):
    detector = Detector(onnx())
    for image in ('a.jpg', Path('a.jpg'), noise(2, 2, 3), Image.fromarray(noise(2, 2, 3))):
        with pytest.raises(DetectorError, match='give a list'):
            detector(image)


def test_models_of_another_kind(write):
    for changes, reason in (
        ({'metadata': None}, 'was not exported by mmdet_detr: it has no metadata'),
        ({'format_version': 2}, 'has format 2: use the detr_runtime.py that lies beside it'),
        ({'raw': True}, 'was exported raw'),
    ):
        path = write(**changes)
        with pytest.raises(DetectorError, match=f'{path} {reason}'):
            Detector(path)


def test_metadata_of_a_later_minor_version(onnx):
    assert Detector(onnx(unheard_of=1)).metadata.classes == CLASSES


def test_files_that_are_no_models(tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('openvino')
    whole = write_onnx(tmp_path / 'whole.onnx').read_bytes()
    xml = write_openvino(tmp_path / 'whole.xml')
    weights = xml.with_suffix('.bin').read_bytes()
    contents = {'empty': b'', 'text': b'no model', 'cut': whole[: len(whole) // 2], 'bytes': bytes(range(256)) * 8}
    for name, content in contents.items():
        path = tmp_path / f'{name}.onnx'
        path.write_bytes(content)
        with pytest.raises(DetectorError, match=f'{path} is broken') as caught:
            Detector(path)
        assert '\n' not in str(caught.value)
        path = path.with_suffix('.xml')
        path.write_bytes(xml.read_bytes()[:3000] if name == 'cut' else content)
        path.with_suffix('.bin').write_bytes(weights)
        with pytest.raises(DetectorError, match=f'{path} is broken') as caught:
            Detector(path)
        assert '\n' not in str(caught.value)
    xml.with_suffix('.bin').write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DetectorError, match=f'{xml} is broken'):
        Detector(xml)
    xml.with_suffix('.bin').unlink()
    with pytest.raises(DetectorError, match=r'whole\.bin is missing'):
        Detector(xml)
    with pytest.raises(DetectorError, match=r'none\.onnx is missing'):
        Detector(tmp_path / 'none.onnx')
    with pytest.raises(DetectorError, match=r'iter_7\.pth is no model: name a file \.onnx or \.xml'):
        Detector(tmp_path / 'iter_7.pth')
    for numbers in ({'batch_size': 0}, {'threads': 0}):
        with pytest.raises(DetectorError, match='at least 1'):
            Detector(tmp_path / 'whole.onnx', **numbers)


@pytest.mark.parametrize(('suffix', 'library'), [('onnx', 'onnxruntime'), ('xml', 'openvino')])
def test_a_missing_library_is_named(tmp_path, monkeypatch, suffix, library):
    for name in ('detr.onnx', 'detr.xml', 'detr.bin'):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DetectorError, match=f'detr.{suffix} needs {library}: pip install {library}'):
        Detector(tmp_path / f'detr.{suffix}')


def test_nan_is_said(onnx):
    detector = Detector(onnx(nan=True))
    detector([np.full((40, 40, 3), 255, np.uint8)])
    with pytest.raises(DetectorError, match='gives NaN or infinity for an image'):
        detector([np.zeros((40, 40, 3), np.uint8)])


# the program

REFUSING = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'torchvision', 'mmdet', 'mmcv', 'mmengine', 'cv2', 'mmdet_detr'}:
            raise RuntimeError(f'{name} was imported')
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import detr_runtime
sys.exit(detr_runtime.main(sys.argv[2:]))
"""


@pytest.fixture
def program(tmp_path):
    """Runs a copy of the file where nothing else of the project can be imported."""
    folder = tmp_path / 'elsewhere'
    folder.mkdir()
    (folder / 'detr_runtime.py').write_bytes(FILE.read_bytes())

    def run(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, '-c', REFUSING, str(folder), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    return run


def test_program(program, write, tmp_path):
    model = write(num_masks=2)
    for name in ('one/a.png', 'two/a.jpg', 'two/b.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(half_bright()).save(tmp_path / name)
    done = program(model, 'one/a.png', 'two/a.jpg', 'two/b.png', '--out', 'found', '--batch-size', 2, '--threads', 1)
    assert (done.returncode, done.stdout) == (0, '6 found in 3 of 3 images: pictures and detections.json in found\n')
    assert done.stderr.splitlines()[-3:] == [
        '[1/3] one/a.png: 2 found',
        '[2/3] two/a.jpg: 2 found',
        '[3/3] two/b.png: 2 found',
    ]
    entries = json.loads((tmp_path / 'found' / 'detections.json').read_text())
    assert [entry['picture'] for entry in entries] == ['a.jpg', 'a_2.jpg', 'b.jpg']
    assert entries[0] == {
        'file': 'one/a.png',
        'width': 64,
        'height': 40,
        'picture': 'a.jpg',
        'detections': [
            {'class': 'square', 'label': 1, 'score': 0.9, 'box': [16.0, 20.0, 48.0, 40.0], 'mask': 'a.mask0.png'},
            {'class': 'circle', 'label': 0, 'score': 0.6, 'box': [0.0, 0.0, 32.0, 20.0], 'mask': 'a.mask1.png'},
        ],
    }
    mask = np.asarray(Image.open(tmp_path / 'found' / 'a.mask0.png'))
    assert np.array_equal(mask > 0, half_bright()[..., 0] > 0)
    with Image.open(tmp_path / 'found' / 'a.jpg') as picture:
        assert picture.size == (64 * 7, 40 * 7)


def test_program_writes_panoptic_maps(program, onnx, tmp_path):
    Image.fromarray(half_bright()).save(tmp_path / 'a.png')
    assert program(onnx(num_masks=3, resize=None, **PANOPTIC), 'a.png', '--out', 'found').returncode == 0
    (entry,) = json.loads((tmp_path / 'found' / 'detections.json').read_text())
    coded = np.asarray(Image.open(tmp_path / 'found' / entry['panoptic'])).astype(int)
    assert np.array_equal(coded @ [1, 256, 65536], np.where(half_bright()[..., 0] > 0, 1001, 1000))


def test_program_leaves_out_broken_images(program, onnx, tmp_path):
    model = onnx(nan=True)
    bright, dark = np.full((40, 40, 3), 255, np.uint8), np.zeros((40, 40, 3), np.uint8)
    for name, pixels in (('a.png', bright), ('dark.png', dark), ('b.png', bright)):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / 'broken.jpg').write_text('no pixels')
    done = program(model, 'a.png', 'broken.jpg', 'dark.png', 'b.png', '--batch-size', 3)
    assert done.returncode == 1
    assert done.stdout == '4 found in 2 of 4 images: pictures and detections.json in predictions\n'
    assert done.stderr.splitlines()[-4:] == [
        '[1/4] left out broken.jpg: no image',
        '[2/4] a.png: 2 found',
        f'[3/4] left out dark.png: {model} gives NaN or infinity for dark.png',
        '[4/4] b.png: 2 found',
    ]
    assert len(json.loads((tmp_path / 'predictions' / 'detections.json').read_text())) == 2
    done = program(model, 'broken.jpg')
    assert done.returncode == 2
    assert done.stdout.startswith('0 found in 0 of 1 images')


def test_program_refuses_in_one_line(program, onnx, tmp_path):
    model = onnx()
    (tmp_path / 'text.onnx').write_text('no model')
    for arguments, reason in (
        (('none.onnx', 'a.png'), 'none.onnx is missing'),
        (('text.onnx', 'a.png'), 'text.onnx is broken or was not exported by mmdet_detr'),
        ((model, 'a.png', '--score-thr', 50), 'score_thr has to be between 0 and 1, got 50.0'),
        ((model, 'a.png', '--batch-size', 0), 'batch_size=0 and threads=None have to be at least 1'),
        ((model, 'a.png', '--out', model), 'File exists'),
        ((model, 'found/a.png', '--out', 'found'), 'found/a.png lies in the folder of the pictures'),
    ):
        done = program(*arguments)
        assert (done.returncode, done.stdout) == (2, '')
        (line,) = [line for line in done.stderr.splitlines() if line.startswith('detr_runtime: ')]
        assert reason in line
        assert 'Traceback' not in done.stderr


def test_help_does_not_wait_for_a_library(tmp_path):
    code = "import sys; sys.modules['onnxruntime'] = sys.modules['openvino'] = None; import runpy; "
    code += f"sys.argv = ['detr_runtime.py', '--help']; runpy.run_path({str(FILE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert '--score-thr' in done.stdout


def test_program_stops_at_ctrl_c(onnx, tmp_path, monkeypatch, capsys):
    Image.fromarray(half_bright()).save(tmp_path / 'a.png')
    calls = []

    def prepare(self, image):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, image)

    whole = Detector.prepare
    monkeypatch.setattr(Detector, 'prepare', prepare)
    out = tmp_path / 'found'
    assert runtime.main([str(onnx()), *[str(tmp_path / 'a.png')] * 3, '--out', str(out)]) == 1
    assert len(json.loads((out / 'detections.json').read_text())) == 0  # the batch waits for its next image
    capsys.readouterr()


@pytest.mark.slow
def test_program_in_a_fresh_environment(onnx, tmp_path):
    model = onnx(num_masks=3, resize=None, **PANOPTIC)
    python = tmp_path / 'environment' / 'bin' / 'python'
    subprocess.run([sys.executable, '-m', 'venv', python.parents[1]], check=True)
    packages = ('numpy', 'pillow', 'onnxruntime')
    for number in range(1, len(packages) + 1):
        installed = subprocess.run(
            [python, '-m', 'pip', 'install', '-q', *packages[:number]], capture_output=True, text=True, check=False
        )
        if installed.returncode:
            pytest.skip(f'pip cannot install {packages[:number]}: {installed.stderr.strip().splitlines()[-1:]}')
        (tmp_path / 'detr_runtime.py').write_bytes(FILE.read_bytes())
        Image.fromarray(half_bright()).save(tmp_path / 'a.png')
        done = subprocess.run(
            [python, 'detr_runtime.py', model, 'a.png'], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        lacking = {1: "No module named 'PIL': pip install numpy", 2: 'needs onnxruntime: pip install onnxruntime'}
        if number in lacking:
            assert done.returncode in (1, 2)
            assert lacking[number] in done.stderr
            assert 'Traceback' not in done.stderr
    assert (done.returncode, done.stdout) == (
        0,
        '2 found in 1 of 1 images: pictures and detections.json in predictions\n',
    )
    assert done.stderr == '[1/1] a.png: 2 found\n'
    assert (tmp_path / 'predictions' / 'a.panoptic.png').is_file()
