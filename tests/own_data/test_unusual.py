"""Folders with files that are broken, ambiguous, or of no use."""

import json
from pathlib import Path

import pytest
import torch
from helpers import loopback_server
from mmengine.config import Config
from own_pictures import NAMES, coco, write_coco, write_images, write_voc, write_yolo

from mmdet_detr.errors import CheckpointError, ConfigError
from mmdet_detr.own_data import OwnData, OwnDataError, config_file, read_folder
from mmdet_detr.own_data.base import published_weights, require_weights


def stems(data: OwnData) -> dict[str, str]:
    return {
        split: ''.join(sorted(Path(image['file_name']).stem for image in document['images']))
        for split, document in data.documents.items()
    }


def test_broken_and_foreign_files_beside_the_annotations(tmp_path):
    write_images(tmp_path)
    write_coco(tmp_path / 'train.json', 'abc')
    write_coco(tmp_path / 'val.json', 'de')
    (tmp_path / 'broken.json').write_text('{"images": [')
    (tmp_path / 'results.json').write_text('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]')
    (tmp_path / 'loop').symlink_to(tmp_path)
    (tmp_path / '.hidden').mkdir()
    write_coco(tmp_path / '.hidden' / 'train.json')
    assert stems(read_folder(tmp_path)) == {'train': 'abc', 'val': 'de'}


def test_a_name_that_several_images_have(tmp_path):
    for folder in ('one', 'two'):
        write_images(tmp_path / 'images' / folder, 'a')
    write_images(tmp_path, 'bd')
    write_coco(tmp_path / 'boxes.json', 'abd')
    with pytest.raises(OwnDataError, match=r'1 of 3 images cannot be used, first: a.jpg: there is no such file'):
        read_folder(tmp_path)


def test_images_without_a_usable_name(tmp_path):
    write_images(tmp_path, 'bd')
    document = coco('bd')
    document['images'] += [{'id': 1, 'file_name': '', 'width': 1, 'height': 1}, {'id': 2}, 3]
    (tmp_path / 'boxes.json').write_text(json.dumps(document))
    with pytest.raises(OwnDataError, match=r'3 of 5 images cannot be used'):
        read_folder(tmp_path)


def test_a_few_broken_images_are_left_out_with_their_boxes(tmp_path):
    for number in range(3):
        write_images(tmp_path / 'images' / str(number), 'abde')
        write_yolo(tmp_path / 'labels' / str(number), 'abde')
    (tmp_path / 'images' / '1' / 'b.jpg').write_bytes(b'no image')
    data = read_folder(tmp_path)
    assert sum(len(document['images']) for document in data.documents.values()) == 11
    assert sum(len(document['annotations']) for document in data.documents.values()) == 13
    broken = tmp_path / 'images' / '1' / 'b.jpg'
    assert f'all: 1 of 12 images cannot be used, first: {broken}: no image. They are left out' in data.notes


def test_splits_that_are_of_no_use(tmp_path):
    """Images outside the splits, a split without boxes, and one without images."""
    for split, names in (('train', 'ab'), ('val', 'd'), ('test', 'c'), ('', 'e')):
        write_images(tmp_path / 'images' / split, names)
        write_yolo(tmp_path / 'labels' / split, names)
    data = read_folder(tmp_path)
    assert stems(data) == {'train': 'ab', 'val': 'd'}
    assert 'images in no folder of a split, left out: 1' in data.notes
    assert 'test is not used: none of its 1 images has a box' in data.notes
    write_coco(tmp_path / 'train.json', 'ab')
    write_coco(tmp_path / 'val.json', 'd')
    (tmp_path / 'test.json').write_text(json.dumps({**coco(''), 'annotations': []}))
    assert stems(read_folder(tmp_path)) == {'train': 'ab', 'val': 'd'}


def test_broken_yaml_and_lists_of_several_folders(tmp_path):
    for folder, names in (('first', 'ab'), ('second', 'c'), ('third', 'de')):
        write_images(tmp_path / folder, names)
        write_yolo(tmp_path / folder, names)
    (tmp_path / 'a.yaml').write_text('names: [cat, dog\n')
    (tmp_path / 'gone.yaml').symlink_to(tmp_path / 'nowhere')
    (tmp_path / 'b.yaml').write_text('train: [first, second, nowhere]\nval: third\nnames: [cat, dog]\n')
    assert stems(read_folder(tmp_path)) == {'train': 'abc', 'val': 'de'}
    (tmp_path / 'b.yaml').write_text('names: {first: cat}\n')
    with pytest.raises(OwnDataError, match=r'b.yaml: names has to be a list, or numbers with names'):
        read_folder(tmp_path)


def test_unusual_files_of_voc(tmp_path):
    """A page of another kind, sizes that are no numbers, an image that only the content names."""
    write_images(tmp_path, 'abde')
    write_voc(tmp_path, 'abd')
    other = (tmp_path / 'd.xml').read_text().replace('d.jpg', 'photos\\e.jpg')
    (tmp_path / 'x.xml').write_text(other.replace('<width>50<', '<width>wide<'))
    (tmp_path / 'page.xml').write_text('<html/>')
    data = read_folder(tmp_path)
    assert stems(data).keys() == {'train', 'val'}
    assert ''.join(sorted(''.join(stems(data).values()))) == 'abde'
    assert any(note.startswith('.xml files that are no annotations, left out: 1') for note in data.notes)


def test_voc_without_the_image(tmp_path):
    write_images(tmp_path, 'ab')
    write_voc(tmp_path, 'abd')
    with pytest.raises(OwnDataError, match=r'1 of 3 images cannot be used, first: .*d.jpg: there is no such file'):
        read_folder(tmp_path)


def test_voc_with_lists_of_other_images(tmp_path):
    write_images(tmp_path / 'JPEGImages')
    write_voc(tmp_path / 'Annotations')
    (tmp_path / 'ImageSets' / 'Main').mkdir(parents=True)
    (tmp_path / 'ImageSets' / 'Main' / 'train.txt').write_text('x\ny\n')
    assert ''.join(sorted(''.join(stems(read_folder(tmp_path)).values()))) == 'abcde'


def test_weights_from_an_address(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    torch.save({'model': {}}, tmp_path / 'weights-0123abcd.pth')
    (tmp_path / 'page-0123abcd.pth').write_text('<html>not found</html>')
    with loopback_server(tmp_path) as address:
        assert require_weights(f'{address}/weights-0123abcd.pth') == f'{address}/weights-0123abcd.pth'
        with pytest.raises(CheckpointError, match='is no checkpoint, or is damaged'):
            require_weights(f'{address}/page-0123abcd.pth')
        with pytest.raises(CheckpointError, match=r'cannot be downloaded .*404'):
            require_weights(f'{address}/other-0123abcd.pth')
    assert published_weights(tmp_path / 'config.py') is None


def test_parts_of_bases():
    data = OwnData(Path('/mine'), 'COCO', NAMES, {'train': {'images': [{'id': 1}] * 40, 'annotations': []}})

    def fit(**base):
        given = {
            'val_dataloader': {'dataset': {}},
            'train_cfg': {'max_epochs': 10},
            'model': {'num_classes': 80},
            **base,
        }
        return config_file.fit_config(Config(given), data, Path('/run'), Path('/mine'), Path('/run'), device='cpu')[0]

    with pytest.raises(ConfigError, match='has no train_dataloader to fine-tune'):
        fit()
    leaf = {'type': 'CocoDataset', 'pipeline': [{'type': 'LoadImageFromFile'}]}
    mosaic = {'type': 'MultiImageMixDataset', 'dataset': leaf, 'pipeline': [{'type': 'Mosaic'}]}
    config = fit(train_dataloader={'batch_size': 8, 'dataset': {'type': 'RepeatDataset', 'dataset': mosaic}})
    assert config.train_dataloader.dataset.type == 'MultiImageMixDataset'
    assert config.train_dataloader.dataset.pipeline == mosaic['pipeline']
    assert config.train_dataloader.dataset.dataset.type == 'mmdet_detr.RobustCocoDataset'
    assert config.train_dataloader.dataset.dataset.pipeline == leaf['pipeline']
    steps = [{'type': 'CosineAnnealingLR', 'begin': 5, 'end': 10, 'T_max': 5, 'by_epoch': True}]
    config = fit(train_dataloader={'batch_size': 8, 'dataset': leaf}, param_scheduler=steps)
    assert config.train_cfg.max_epochs == 100  # 1000 steps of 4 images
    assert config.param_scheduler == [
        {'type': 'CosineAnnealingLR', 'begin': 50, 'end': 100, 'T_max': 50, 'by_epoch': True}
    ]
    milestones = [{'type': 'MultiStepLR', 'by_epoch': False, 'milestones': [800, 900]}]
    config = fit(
        train_dataloader={'batch_size': 4, 'dataset': leaf}, param_scheduler=milestones, train_cfg={'max_iters': 1000}
    )
    assert config.train_cfg.max_epochs == 100
    assert config.param_scheduler[0].milestones == [80, 90]


def test_a_gpu_with_room_takes_more_images(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (40e9, 80e9))
    assert config_file._batch(2, 16, 1000, None) == 8
    assert config_file._batch(2, 16, 1000, 'cpu') == 2
    assert config_file._batch(2, 16, 50, 'cuda') == 5
