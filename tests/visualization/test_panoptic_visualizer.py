"""Pictures by mmdet's three ways: the visualizer, the hook of --show-dir, and DetInferencer."""

import itertools
import json
from collections import OrderedDict
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from helpers import ROOT
from mmdet.apis import DetInferencer
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import Visualizer

from mmdet_detr.compat.missing_panopticapi import rgb2id
from mmdet_detr.errors import ConfigError
from mmdet_detr.visualization import PanopticVisualizer

META = {'classes': ('cat', 'dog', 'sky'), 'palette': [(200, 0, 0), (0, 200, 0), (0, 0, 200)]}
HEIGHT, WIDTH = 60, 80
VOID = len(META['classes'])
GREY = 100
ALPHA = 0.6
numbers = itertools.count()


@pytest.fixture
def visualizer(monkeypatch) -> PanopticVisualizer:
    """One that mmengine forgets after the test."""
    for cls in (PanopticVisualizer, DetLocalVisualizer, Visualizer):
        monkeypatch.setattr(cls, '_instance_dict', OrderedDict())
    built = VISUALIZERS.build({'type': 'mmdet_detr.PanopticVisualizer', 'name': f'test{next(numbers)}'})
    built.dataset_meta = META
    return built


def image() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), GREY, dtype=np.uint8)


def values() -> np.ndarray:
    """Two cats in the upper half, sky in the lower left quarter, VOID in the lower right one."""
    values = np.full((HEIGHT, WIDTH), VOID)
    values[:30, :40], values[:30, 40:], values[30:, :40] = 1000, 2000, 2
    return values


def no_instances() -> InstanceData:
    masks = torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
    labels = torch.zeros(0, dtype=torch.long)
    return InstanceData(bboxes=torch.zeros(0, 4), labels=labels, scores=torch.zeros(0), masks=masks)


def a_dog(score: float = 0.9) -> InstanceData:
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 20:50, 30:60] = True
    box = torch.tensor([[30.0, 20, 60, 50]])
    return InstanceData(bboxes=box, labels=torch.tensor([1]), scores=torch.tensor([score]), masks=mask)


def make_sample(values: np.ndarray | None, instances: InstanceData, path: str = 'a.png') -> DetDataSample:
    sample = DetDataSample(metainfo={'img_path': path, 'ori_shape': (HEIGHT, WIDTH)}, pred_instances=instances)
    if values is not None:
        sample.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(values)[None])
    return sample


def draw(visualizer: PanopticVisualizer, path, sample: DetDataSample, **options) -> np.ndarray:
    visualizer.add_datasample('name', image(), sample, out_file=str(path / 'drawn.png'), **options)
    return mmcv.imread(str(path / 'drawn.png'), channel_order='rgb')


def mixed(colour: tuple[float, ...]) -> list[int]:
    return [int((1 - ALPHA) * GREY + ALPHA * channel) for channel in colour]


def test_panoptic_map(visualizer, tmp_path):
    sample = make_sample(values(), a_dog())
    drawn = draw(visualizer, tmp_path, sample, draw_gt=False)
    assert drawn.shape[0] == HEIGHT
    assert drawn.shape[1] > WIDTH + 20
    assert drawn[10, 20].tolist() == mixed((200, 0, 0))
    assert drawn[10, 60].tolist() == mixed((200 * 0.65 + 255 * 0.35, 255 * 0.35, 255 * 0.35))  # a lighter cat
    assert drawn[50, 20].tolist() == mixed((0, 0, 200))
    assert drawn[50, 60].tolist() == [GREY] * 3
    assert (drawn[10, 39:41] == 255).all()  # an edge of a pixel on each side
    assert (drawn[29:31, 20] == 255).all()
    legend = drawn[:, WIDTH:]
    assert all((legend == colour).all(-1).any() for colour in ((200, 0, 0), (0, 0, 200)))
    assert not (legend == (0, 200, 0)).all(-1).any()  # the dog is an instance and not in the map
    assert (sample.pred_panoptic_seg.sem_seg[0].numpy() == values()).all()
    assert 'pred_instances' in sample


@pytest.mark.parametrize('instances', [no_instances(), a_dog()])
def test_an_image_in_which_nothing_is_found(visualizer, tmp_path, instances):
    drawn = draw(visualizer, tmp_path, make_sample(np.full((HEIGHT, WIDTH), VOID), instances), draw_gt=False)
    assert (drawn[:, :WIDTH] == GREY).all()
    assert (drawn[:, WIDTH:] < 100).all(-1).any()  # it says so


def test_truth_is_a_map_of_its_masks_beside_the_prediction(visualizer, tmp_path):
    sample = make_sample(values(), no_instances())
    masks = np.stack([values() == 1000, values() == 2000, values() == 2]).astype(np.uint8)
    sample.gt_instances = InstanceData(labels=torch.tensor([0, 0, 2]), masks=BitmapMasks(masks, HEIGHT, WIDTH))
    drawn = draw(visualizer, tmp_path, sample)
    half = drawn.shape[1] // 2
    assert (drawn[:, :half] == drawn[:, half:]).all()
    assert drawn[50, 20].tolist() == mixed((0, 0, 200))


@pytest.mark.parametrize('with_map', [True, False])
def test_masks_of_the_truth_in_another_size_are_an_error(visualizer, tmp_path, with_map):
    sample = make_sample(values() if with_map else None, no_instances())
    masks = BitmapMasks(np.ones((1, 7, 9), np.uint8), 7, 9)
    sample.gt_instances = InstanceData(labels=torch.tensor([0]), masks=masks)
    with pytest.raises(ConfigError, match='masks of gt_instances have 7 x 9 pixels'):
        draw(visualizer, tmp_path, sample)


def test_truth_without_masks_is_the_image(visualizer, tmp_path):
    sample = make_sample(values(), no_instances())
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    drawn = draw(visualizer, tmp_path, sample)
    assert (drawn[:, :WIDTH] == GREY).all()
    assert drawn[10, WIDTH + 20].tolist() == mixed((200, 0, 0))


def test_instance_masks_below_boxes_and_names(visualizer, tmp_path):
    sample = make_sample(None, a_dog())
    drawn = draw(visualizer, tmp_path, sample, draw_gt=False)
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    assert drawn[45, 50].tolist() == pytest.approx(mixed((0, 200, 0)), abs=2)  # matplotlib draws the box afterwards
    assert drawn[55, 70].tolist() == pytest.approx([GREY] * 3, abs=2)
    without_masks = InstanceData(**{key: value for key, value in a_dog().items() if key != 'masks'})
    boxes_only = draw(visualizer, tmp_path, make_sample(None, without_masks), draw_gt=False)
    same = (drawn == boxes_only).all(-1)
    assert same[:18].all()
    assert not same[40:48, 40:58].any()
    assert (boxes_only[22:30, 32:50] < 80).all(-1).any()  # the name stands on black, with and without a mask below it
    assert (drawn[22:30, 32:50] < 80).all(-1).any()


@pytest.mark.parametrize('instances', [no_instances(), a_dog(score=0.2)])
def test_no_instance_above_the_threshold(visualizer, tmp_path, instances):
    drawn = draw(visualizer, tmp_path, make_sample(None, instances), draw_gt=False)
    assert np.abs(drawn.astype(int) - GREY).max() <= 1


def test_drawing_takes_no_random_numbers(visualizer, tmp_path):
    """mmdet's own draws the colour of each mask from NumPy's generator, which trainings use, too."""
    before = np.random.get_state()[2]
    for sample in (make_sample(values(), a_dog()), make_sample(None, a_dog())):
        draw(visualizer, tmp_path, sample, draw_gt=False)
    assert np.random.get_state()[2] == before


def test_mmdets_own_fails_where_nothing_is_found(visualizer):
    theirs = DetLocalVisualizer()
    theirs.dataset_meta = META
    with pytest.raises(ValueError, match='need at least one array to stack'):
        theirs.add_datasample('name', image(), make_sample(np.full((HEIGHT, WIDTH), VOID), no_instances()))


def test_show_dir(visualizer, tmp_path):
    samples = []
    for name, seg in (('found', values()), ('void', np.full((HEIGHT, WIDTH), VOID))):
        mmcv.imwrite(image(), str(tmp_path / f'{name}.png'))
        samples.append(make_sample(seg, no_instances(), str(tmp_path / f'{name}.png')))
    runner = SimpleNamespace(work_dir=str(tmp_path), timestamp='now', iter=0)
    DetVisualizationHook(draw=True, test_out_dir='shown').after_test_iter(runner, 0, {}, samples)
    found, void = (mmcv.imread(str(tmp_path / 'now' / 'shown' / f'{name}.png')) for name in ('found', 'void'))
    right = found[:, WIDTH:]  # the left half is the truth, of which the sample has none
    assert right[50, 20].tolist() == mixed((200, 0, 0))  # BGR
    assert (void[:, : 2 * WIDTH] == GREY).all()


@pytest.mark.parametrize('found', [True, False])
def test_inferencer(tmp_path, visualizer, found):
    """It writes 0 for VOID into the map of the prediction, which must not show in the picture."""
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_tiny_shapes_plain.py')
    config.visualizer = {'type': 'mmdet_detr.PanopticVisualizer'}
    with pytest.warns(UserWarning, match='Checkpoint is not loaded'):
        inferencer = DetInferencer(config, device='cpu', show_progress=False)
    inferencer.model.dataset_meta = inferencer.visualizer.dataset_meta = META
    mmcv.imwrite(image(), str(tmp_path / 'a.png'))
    seg = values() if found else np.full((HEIGHT, WIDTH), VOID)
    inferencer.forward = lambda *_, **__: [make_sample(seg.copy(), no_instances(), str(tmp_path / 'a.png'))]
    result = inferencer(str(tmp_path / 'a.png'), out_dir=str(tmp_path / 'out'), no_save_pred=False)
    drawn = mmcv.imread(str(tmp_path / 'out' / 'vis' / 'a.png'), channel_order='rgb')
    assert drawn[10, 20].tolist() == (mixed((200, 0, 0)) if found else [GREY] * 3)
    assert (drawn[35:, 45:WIDTH] == GREY).all()
    saved = tmp_path / 'out' / 'preds' / 'a_panoptic_seg.png'
    ids = rgb2id(mmcv.imread(str(saved), channel_order='rgb'))
    assert (ids == np.where(seg == VOID, 0, seg)).all()
    assert json.loads((tmp_path / 'out' / 'preds' / 'a.json').read_text())['panoptic_seg_path'] == str(saved)
    assert result['predictions'][0]['masks'] == []
