"""Real photographs, through the config that trains on them."""

import json

import pytest
import torch
from helpers import BCCD, ROOT
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

pytestmark = pytest.mark.skipif(not BCCD.is_dir(), reason=f'the BCCD photographs are not at {BCCD}')


@pytest.fixture(scope='module')
def config() -> Config:
    config = Config.fromfile(ROOT / 'configs' / 'detr' / 'detr_r18_bccd.py')
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.data_root = str(BCCD)
    return config


def test_annotations_are_read_without_the_boxes_of_zero_size(config):
    for loader, split in ((config.train_dataloader, 'train'), (config.test_dataloader, 'val')):
        annotations = json.loads((BCCD / f'{split}.json').read_text())['annotations']
        empty = sum(min(annotation['bbox'][2:]) <= 0 for annotation in annotations)
        assert empty == 1
        dataset = DATASETS.build(loader.dataset)
        assert sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset))) == len(annotations) - empty


def test_a_step_of_training_and_a_prediction(config):
    model = MODELS.build(config.model)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    data = model.data_preprocessor(pseudo_collate([dataset[i] for i in range(4)]), training=True)
    losses = model(**data, mode='loss')
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    model.eval()
    dataset = DATASETS.build(config.test_dataloader.dataset)
    with torch.no_grad():
        sample = model.test_step(pseudo_collate([dataset[0]]))[0]
    assert sample.ori_shape == (480, 640)
    assert sample.pred_instances.bboxes.shape == (50, 4)
