"""Box and mask AP of things, with annotation files in several orders."""

import json

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from panoptic_files import document, write

from mmdet_detr.datasets import AnnotationError
from mmdet_detr.errors import ConfigError

META = {'classes': ('cat', 'dog', 'sky'), 'thing_classes': ('cat', 'dog'), 'stuff_classes': ('sky',)}
CAT, DOG, SKY = {'id': 7, 'name': 'cat'}, {'id': 3, 'name': 'dog'}, {'id': 1, 'name': 'sky'}


def annotation(number: int, category: dict, box: list[int]) -> dict:
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        'id': number,
        'image_id': 1,
        'category_id': category['id'],
        'bbox': box,
        'area': w * h,
        'iscrowd': 0,
        'segmentation': [polygon],
    }


def evaluate(
    tmp_path,
    categories: list[dict],
    meta: dict = META,
    kind: str = 'mmdet_detr.CocoMetric',
    stuff_found: bool = False,
    first_id: int = 1,
    **kwargs,
) -> dict:
    """AP of a perfect cat and a dog with a perfect box and a mask of IoU 0.6."""
    boxes = {7: [0, 0, 40, 40], 3: [50, 50, 40, 40], 1: [0, 50, 40, 40]}
    document = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'height': 100, 'width': 100}],
        'categories': categories,
        'annotations': [
            annotation(i, c, boxes[c['id']]) for i, c in enumerate(categories, first_id) if c['id'] in boxes
        ],
    }
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(document))
    masks = np.zeros((2, 100, 100), dtype=bool)
    masks[0, :40, :40], masks[1, 50:74, 50:90] = True, True
    sample = DetDataSample(metainfo={'img_id': 1, 'ori_shape': (100, 100)})
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90]]),
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
        masks=torch.from_numpy(masks),
    )
    if stuff_found:
        sample.pred_instances = sample.pred_instances[[0, 1, 1]]
        sample.pred_instances.labels[2] = 2
    metric = METRICS.build({'type': kind, 'ann_file': str(path), 'metric': ['bbox', 'segm'], **kwargs})
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = meta
    evaluator.process([sample])
    return evaluator.evaluate(1)


@pytest.mark.parametrize('categories', [[CAT, DOG], [DOG, CAT], [CAT, DOG, SKY], [SKY, DOG, CAT], [DOG, SKY, CAT]])
def test_labels_are_mapped_by_name(tmp_path, categories):
    """IoU 0.6 passes three of the ten thresholds, 0.5 to 0.6: the dog's mask AP is 0.3."""
    results = evaluate(tmp_path, categories, classwise=True)
    assert results['coco/bbox_mAP'] == 1.0
    assert results['coco/segm_mAP'] == pytest.approx((1 + 0.3) / 2)
    assert results['coco/cat_precision'] == 1.0
    assert results['coco/dog_precision'] == pytest.approx(0.3)
    assert 'coco/sky_precision' not in results


def test_detected_stuff_is_left_out(tmp_path):
    results = evaluate(tmp_path, [CAT, DOG], stuff_found=True)
    assert results['coco/bbox_mAP'] == 1.0
    assert results['coco/segm_mAP'] == pytest.approx((1 + 0.3) / 2)


@pytest.mark.parametrize(('kind', 'ap'), [('mmdet_detr.CocoMetric', 1.0), ('CocoMetric', 0.5)])
def test_ids_that_begin_with_0(tmp_path, kind, ap):
    """pycocotools takes the id 0 for no match: the cat with that id is missed by a detection that is perfect."""
    results = evaluate(tmp_path, [CAT, DOG], kind=kind, first_id=0)
    assert results['coco/bbox_mAP'] == ap


def test_mmdets_own_metric_goes_by_the_order_of_the_file(tmp_path):
    assert evaluate(tmp_path, [CAT, DOG], kind='CocoMetric')['coco/bbox_mAP'] == 1.0
    assert evaluate(tmp_path, [SKY, CAT, DOG], kind='CocoMetric')['coco/bbox_mAP'] == 0.0


def test_a_root_category_with_the_name_of_a_class_is_not_it(tmp_path):
    root = {'id': 0, 'name': 'dog'}
    for categories in ([root, DOG, CAT], [DOG, CAT, root]):
        assert evaluate(tmp_path, categories)['coco/bbox_mAP'] == 1.0


def test_all_classes_count_without_things_and_stuff(tmp_path):
    results = evaluate(tmp_path, [SKY, DOG, CAT], meta={'classes': ('cat', 'dog', 'sky')})
    assert results['coco/bbox_mAP'] == pytest.approx(2 / 3, abs=1e-3)  # the sky is missed


@pytest.mark.parametrize('segmentation', [[], None, [[1, 2, 3, 4]], 'abc'])
def test_objects_without_masks_end_an_evaluation_of_masks_at_its_start(tmp_path, segmentation):
    """Annotations of classes that are not evaluated may be anything."""
    bad = {**annotation(5, DOG, [50, 50, 40, 40]), 'segmentation': segmentation}
    path = tmp_path / 'instances.json'
    images = [{'id': 1, 'file_name': 'a.jpg', 'height': 100, 'width': 100}]
    document = {'images': images, 'categories': [CAT, DOG], 'annotations': [annotation(1, CAT, [0, 0, 9, 9]), bad]}
    path.write_text(json.dumps(document))
    metric = METRICS.build({'type': 'mmdet_detr.CocoMetric', 'ann_file': str(path), 'metric': ['bbox', 'segm']})
    with pytest.raises(AnnotationError, match=r'1 of 2 annotations have none that pycocotools reads; .* the id 5'):
        metric.dataset_meta = {'classes': ('cat', 'dog')}
    metric.dataset_meta = {'classes': ('cat',)}
    boxes = METRICS.build({'type': 'mmdet_detr.CocoMetric', 'ann_file': str(path), 'metric': 'bbox'})
    boxes.dataset_meta = {'classes': ('cat', 'dog')}


def test_a_panoptic_file_is_refused(tmp_path):
    write(tmp_path, document())
    with pytest.raises(AnnotationError, match=r"is no file of COCO's instances, .*: an entry has no 'id'"):
        METRICS.build({'type': 'mmdet_detr.CocoMetric', 'ann_file': str(tmp_path / 'panoptic.json')})
    with pytest.raises(KeyError, match='metric should be one of'):
        METRICS.build({'type': 'mmdet_detr.CocoMetric', 'metric': 'mask'})


def test_classes_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match='has no category dog'):
        evaluate(tmp_path, [CAT, SKY])
    with pytest.raises(ConfigError, match='classes has stuff before the last of thing_classes: sky, cat, dog'):
        evaluate(tmp_path, [CAT, DOG], meta={**META, 'classes': ('sky', 'cat', 'dog')})
