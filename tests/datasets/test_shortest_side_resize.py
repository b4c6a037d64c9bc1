import numpy as np
import pytest
import torch
from helpers import BCCD, ROOT
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmdet_detr.datasets.shortest_side_resize import ShortestSideResize, official_size, resize_nearest

# (width, height) -> size that the official code gives for shortest side 800, longest 1333; by hand
OFFICIAL_SIZES = [
    ((640, 480), (1066, 800)),  # int(800 * 640 / 480) = int(1066.67)
    ((480, 640), (800, 1066)),
    ((500, 500), (800, 800)),
    ((640, 360), (1333, 750)),  # bounded: round(1333 * 360 / 640) = 750, int(750 * 640 / 360) = 1333
    ((640, 427), (1199, 800)),
    ((640, 356), (1332, 741)),  # round(741.48) = 741, int(741 * 640 / 356) = int(1332.1)
    ((640, 353), (1332, 735)),  # round(735.2) = 735, int(735 * 640 / 353) = int(1332.6)
    ((3840, 2160), (1333, 750)),
    ((10, 1000), (13, 1300)),  # round(13.33) = 13
    ((1, 5000), (1, 5000)),  # the shorter side never vanishes
]


@pytest.mark.parametrize(('size', 'expected'), OFFICIAL_SIZES)
def test_official_size(size, expected):
    assert official_size(*size, shortest=800, longest=1333) == expected


def test_longer_side_can_end_a_pixel_above_the_bound():
    # round(1333 * 300 / 1373) = round(291.26) = 291 and int(291 * 1373 / 300) = 1331; rounding up gives the most
    sizes = {max(official_size(300, height, 800, 1333)) for height in range(900, 1400)}
    assert max(sizes) == 1335
    assert official_size(300, 1373, 800, 1333) == (291, 1331)


def test_without_bound():
    assert official_size(1000, 100, shortest=400, longest=None) == (4000, 400)


def test_pixels_and_boxes():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    boxes = HorizontalBoxes(torch.tensor([[9.0, 6.0, 45.0, 30.0]]))
    transform = TRANSFORMS.build({'type': 'mmdet_detr.ShortestSideResize', 'sizes': [20]})
    results = transform({'img': image, 'img_shape': (60, 90), 'gt_bboxes': boxes})
    expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(results['img'], expected)
    assert results['img_shape'] == (20, 30)
    assert results['scale_factor'] == pytest.approx((1 / 3, 1 / 3))
    assert results['gt_bboxes'].tensor[0].tolist() == pytest.approx([3, 2, 15, 10])


@pytest.mark.parametrize('size', [(60, 90), (61, 97), (7, 400), (400, 7), (1, 1)])
@pytest.mark.parametrize('shortest', [1, 20, 33, 60, 120])
def test_masks_have_the_pixels_of_the_official_code(size, shortest):
    """PyTorch's nearest; label maps follow the same rule, of any type of integers."""
    random = np.random.default_rng(0)
    masks = random.integers(0, 2, (3, *size), dtype=np.uint8)
    labels = random.integers(0, 2**24, size, dtype=np.int32)
    image = np.zeros((*size, 3), np.uint8)
    results = {'img': image, 'img_shape': size, 'gt_masks': BitmapMasks(masks, *size), 'gt_seg_map': labels}
    resized = ShortestSideResize(sizes=[shortest], longest=None)(results)
    shape = resized['img'].shape[:2]
    expected = torch.nn.functional.interpolate(torch.from_numpy(masks)[:, None].float(), shape, mode='nearest')
    np.testing.assert_array_equal(resized['gt_masks'].masks, expected[:, 0].numpy())
    assert resized['gt_masks'].masks.dtype == np.uint8
    assert (resized['gt_masks'].height, resized['gt_masks'].width) == shape
    expected = torch.nn.functional.interpolate(torch.from_numpy(labels)[None, None].double(), shape, mode='nearest')
    np.testing.assert_array_equal(resized['gt_seg_map'], expected[0, 0].numpy())
    assert resized['gt_seg_map'].dtype == np.int32


def test_the_rule_for_masks_is_not_that_of_opencv():
    mask = np.random.default_rng(0).integers(0, 2, (1, 427, 640), dtype=np.uint8)
    theirs = [BitmapMasks(mask, 427, 640).resize((side, side)).masks for side in range(300, 800, 25)]
    assert any((a != resize_nearest(mask, a.shape[1:])).any() for a in theirs)


def test_no_masks_and_polygons():
    image = np.zeros((60, 90, 3), np.uint8)
    transform = ShortestSideResize(sizes=[20])
    results = transform({'img': image, 'img_shape': (60, 90), 'gt_masks': BitmapMasks([], 60, 90)})
    assert results['gt_masks'].masks.shape == (0, 20, 30)
    polygons = PolygonMasks([[np.array([9.0, 6, 45, 6, 45, 30])]], 60, 90)
    results = transform({'img': image, 'img_shape': (60, 90), 'gt_masks': polygons})
    assert results['gt_masks'].masks[0][0] == pytest.approx(np.array([3, 2, 15, 2, 15, 10]))
    assert 'gt_masks' not in transform({'img': image, 'img_shape': (60, 90)})


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int16', 'float32', 'float64'])
@pytest.mark.parametrize('bands', [(), (1,), (3,), (4,), (5,)])
def test_other_pixels_than_photographs(dtype, bands):
    """Each band by itself has the pixels that PIL gives a single one: a fourth is not taken for transparency."""
    low, high = (-1000, 1000) if dtype != 'uint8' else (0, 255)
    pixels = np.random.default_rng(0).uniform(max(low, 0) if dtype == 'uint16' else low, high, (60, 90, *bands))
    image = pixels.astype(dtype)
    results = ShortestSideResize(sizes=[20])({'img': image})
    got = results['img']
    assert (got.shape, got.dtype, results['img_shape']) == ((20, 30, *bands), image.dtype, (20, 30))
    assert results['scale_factor'] == pytest.approx((1 / 3, 1 / 3))
    for band in np.ndindex(bands):
        one = Image.fromarray(image[(..., *band)].astype(np.uint8 if dtype == 'uint8' else np.float32))
        expected = np.asarray(one.resize((30, 20), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(got[(..., *band)], expected, rtol=1e-6, atol=0.5 if dtype[-2:] == '16' else 1e-3)


def test_pixels_that_float32_does_not_hold_are_refused():
    with pytest.raises(ValueError, match='pixels are int64, and only uint8, uint16, int16, float32, float64 can be'):
        ShortestSideResize(sizes=[20])({'img': np.zeros((60, 90, 3), np.int64)})


def test_draws_every_size_and_nothing_else():
    transform = ShortestSideResize(sizes=[20, 30, 40])
    drawn = {transform({'img': np.zeros((60, 90, 3), np.uint8)})['img_shape'] for _ in range(60)}
    assert drawn == {(20, 30), (30, 45), (40, 60)}


# width, height: landscape, portrait, square, tiny, very long both ways, at the bound, 4K, a single pixel
SIZES = [
    (640, 480), (480, 640), (500, 500), (640, 427), (640, 353), (17, 11), (3, 2), (2000, 60), (60, 2000), (300, 1373),
    (3840, 2160), (2160, 3840), (1, 1),
]  # fmt: skip
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def official_input(image: np.ndarray) -> np.ndarray:
    """What the official transform makes of an RGB image (H, W, 3): (3, H', W'), normalised."""
    height, width = image.shape[:2]
    size, bound = 800, 1333
    if max(height, width) / min(height, width) * size > bound:
        size = round(bound * min(height, width) / max(height, width))
    other = int(size * max(height, width) / min(height, width))
    shape = (size, other) if width < height else (other, size)
    pixels = np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR)) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


@pytest.fixture(scope='module')
def network_input():
    """The network's input for a file, through the official config's test pipeline and preprocessor."""
    config = Config.fromfile(ROOT / 'configs/detr/detr_r50_8x2_500e_coco.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        steps = [TRANSFORMS.build(t) for t in config.test_dataloader.dataset.pipeline if t.type != 'LoadAnnotations']
        preprocessor = MODELS.build(config.model.data_preprocessor)

    def run(path) -> tuple[np.ndarray, tuple[int, int]]:
        packed = {'img_path': str(path), 'img_id': 0}
        for step in steps:
            packed = step(packed)
        batch = preprocessor({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]})
        return batch['inputs'][0].numpy(), batch['data_samples'][0].img_shape

    return run


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_same_input_as_the_official_transform(size, tmp_path, network_input):
    """From the file to the network's input, sizes exactly and pixels to 1e-3 of a normalised unit."""
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / 'image.png')
    got, img_shape = network_input(tmp_path / 'image.png')
    expected = official_input(image)
    assert got.shape == expected.shape
    assert img_shape == expected.shape[1:]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def test_same_input_as_the_official_transform_on_photographs(network_input):
    """JPEG is decoded to the same pixels as by PIL, too."""
    photographs = sorted((BCCD / 'images').glob('*.jpg'))[:3]
    if not photographs:
        pytest.skip(f'no photographs in {BCCD}')
    for path in photographs:
        expected = official_input(np.asarray(Image.open(path).convert('RGB')))
        np.testing.assert_allclose(network_input(path)[0], expected, rtol=0, atol=1e-3)


def test_same_input_as_hugging_face_where_its_sizes_agree(tmp_path, network_input):
    """DetrImageProcessor of transformers 5 differs by a pixel or two for some images at the bound."""
    transformers = pytest.importorskip('transformers', minversion='5', reason='needs transformers 5')
    processor = transformers.DetrImageProcessorPil()
    compared = 0
    for width, height in [size for size in SIZES if size != (1, 1)]:  # it takes 1 x 1 for a channel
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / 'image.png')
        theirs = processor(images=image, return_tensors='np')['pixel_values'][0]
        ours = network_input(tmp_path / 'image.png')[0]
        if theirs.shape == ours.shape:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
            compared += 1
        else:
            assert max(abs(a - b) for a, b in zip(theirs.shape, ours.shape, strict=True)) <= 2
    assert compared >= 9
