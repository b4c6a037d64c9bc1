"""What is wrong with a folder is one line."""

import json

import pytest
from own_pictures import coco, write_coco, write_images, write_voc, write_yolo

from mmdet_detr.own_data import OwnDataError, read_folder


def refused(folder) -> str:
    with pytest.raises(OwnDataError) as caught:
        read_folder(folder)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_no_folder(tmp_path):
    assert refused(tmp_path / 'mine') == f'no such folder: {tmp_path / "mine"}'
    (tmp_path / 'mine').touch()
    assert refused(tmp_path / 'mine').endswith('mine is a file, not a folder')


def test_nothing_is_recognised(tmp_path):
    (tmp_path / 'readme.md').touch()
    assert 'has no images' in refused(tmp_path)
    write_images(tmp_path / 'images')
    (tmp_path / 'images' / 'a.txt').write_text('a photograph of a cat and of a dog\n')
    (tmp_path / 'notes.json').write_text('{"categories": []}')
    message = refused(tmp_path)
    assert 'looked for COCO (a .json file with images, annotations and categories), YOLO (data.yaml' in message
    assert message.endswith(
        "found files of 5 .jpg, 1 .json, 1 .md, 1 .txt. images/a.txt, line 1: 'a photograph of a cat and of a dog': "
        'YOLO wants a class and shares of the image, such as 0 0.5 0.5 0.2 0.2'
    )


def test_no_classes(tmp_path):
    write_images(tmp_path)
    document = coco()
    for categories in ({}, {'categories': []}):
        del document['categories']
        document |= categories
        (tmp_path / 'boxes.json').write_text(json.dumps(document))
        assert refused(tmp_path) == f'{tmp_path / "boxes.json"} names no classes: it has no list of categories'
        document['categories'] = []


def test_several_candidates(tmp_path):
    write_images(tmp_path)
    write_coco(tmp_path / 'old.json')
    write_coco(tmp_path / 'new.json')
    assert 'several files that could be for train: new.json, old.json. Keep one' in refused(tmp_path)
    (tmp_path / 'old.json').rename(tmp_path / 'train.json')
    assert 'several files that could be for train: train.json, new.json' in refused(tmp_path)
    (tmp_path / 'new.json').rename(tmp_path / 'val_1.json')
    write_coco(tmp_path / 'val_2.json')
    assert 'several files that could be for val: val_1.json, val_2.json' in refused(tmp_path)


def test_no_boxes(tmp_path):
    write_images(tmp_path)
    (tmp_path / 'boxes.json').write_text(json.dumps({**coco(), 'annotations': []}))
    assert refused(tmp_path) == f'{tmp_path} (COCO) has 5 images and no boxes'


def test_files_that_are_cut_off(tmp_path):
    write_images(tmp_path / 'train')
    annotations = tmp_path / 'train' / '_annotations.coco.json'
    annotations.write_text(json.dumps(coco())[:-9])
    assert refused(tmp_path).startswith(f'{annotations} is no JSON: ')
    annotations.unlink()
    (tmp_path / 'data.yaml').write_text('names: [cat, dog')
    assert refused(tmp_path).startswith(f'{tmp_path / "data.yaml"} is no YAML: ')


def test_json_that_cannot_be_read(tmp_path):
    """It may be what is missing; UTF-16, which shells of Windows write, can be read."""
    write_images(tmp_path)
    write_coco(tmp_path / 'val.json', 'de')
    whole = json.dumps(coco('abc'))
    (tmp_path / 'train.json').write_text(whole[:-9])
    assert refused(tmp_path).startswith(
        f'{tmp_path} has nothing to train on: it only has images for val. JSON files that cannot be read: 1, '
        'train.json (Expecting value: line 1 column '
    )
    (tmp_path / 'val.json').unlink()
    (tmp_path / 'train.json').write_bytes(whole.replace('cat', 'käfer').encode('latin-1'))
    message = refused(tmp_path)
    assert "found files of 5 .jpg, 1 .json. JSON files that cannot be read: 1, train.json ('utf-8' codec" in message
    (tmp_path / 'train.json').write_text(whole, encoding='utf-16')
    (tmp_path / 'other.json').symlink_to(tmp_path / 'nowhere')
    data = read_folder(tmp_path)
    assert sum(len(document['images']) for document in data.documents.values()) == 3
    assert data.notes[0].startswith('JSON files that cannot be read: 1, other.json (')


@pytest.mark.parametrize(
    ('line', 'mistake'),
    [
        ('0 30 30 20 20', 'these look like pixels, and '),
        ('0,0.5,0.5,0.2,0.2', 'there are commas, and '),
        ('0 0,5 0,5 0,2 0,2', 'there are commas, and '),
        ('cat 0.5 0.5 0.2 0.2', ''),
        ('0 0.5 0.5', ''),
    ],
)
@pytest.mark.parametrize('listed', ['classes.txt', 'data.yaml', None])
def test_labels_that_are_not_those_of_yolo(tmp_path, line, mistake, listed):
    write_images(tmp_path)
    for name in 'bde':
        (tmp_path / f'{name}.txt').write_text(f'\n{line}\n')
    if listed:
        (tmp_path / listed).write_text('names: [cat]' if listed == 'data.yaml' else 'cat\n')
    message = refused(tmp_path)
    start = '(YOLO) has no boxes' if listed == 'data.yaml' else 'has no annotations that are recognised'
    assert message.startswith(f'{tmp_path} {start}')
    wanted = 'YOLO wants a class and shares of the image, such as 0 0.5 0.5 0.2 0.2'
    assert message.endswith(f". b.txt, line 2: '{line}': {mistake}{wanted}")


def test_labels_that_are_empty(tmp_path):
    write_images(tmp_path)
    for name in 'ab':
        (tmp_path / f'{name}.txt').touch()
    assert refused(tmp_path).endswith('found files of 5 .jpg, 2 .txt. The .txt files of the images are empty')


def test_xml_that_is_broken(tmp_path):
    """More than a tenth ends the command, as it does with images and boxes."""
    for number in range(5):
        write_images(tmp_path / str(number), 'abde')
        write_voc(tmp_path / str(number), 'abde')
    for name in ('0/a', '1/a'):
        (tmp_path / f'{name}.xml').write_text('<annotation><object>')
    data = read_folder(tmp_path)
    where = '0/a.xml: no element found: line 1, column 20'
    assert data.notes[0] == f'2 of 20 .xml files cannot be used, first: {where}. They are left out'
    assert not any('without .xml' in note for note in data.notes)
    (tmp_path / '2' / 'a.xml').write_text('<html/>')
    assert refused(tmp_path) == f'3 of 20 .xml files cannot be used, first: {where}. That is more than 10%'
    for path in tmp_path.rglob('*.xml'):
        path.write_text('')
    message = 'XML files that cannot be read: 20, first 0/a.xml: no element found: line 1, column 0'
    assert refused(tmp_path).endswith(f'found files of 20 .jpg, 20 .xml. {message}')


def test_nothing_to_train_on(tmp_path):
    write_images(tmp_path)
    write_coco(tmp_path / 'val.json')
    assert refused(tmp_path) == f'{tmp_path} has nothing to train on: it only has images for val'
    (tmp_path / 'train.json').write_text(json.dumps({**coco('c'), 'annotations': []}))
    assert refused(tmp_path) == f'{tmp_path} has no boxes to train on: they are all in val'


def test_images_that_are_not_there(tmp_path):
    write_images(tmp_path, 'abd')
    write_coco(tmp_path / 'boxes.json')
    message = refused(tmp_path)
    assert message == 'all: 2 of 5 images cannot be used, first: c.jpg: there is no such file. That is more than 10%'


def test_a_class_without_a_name(tmp_path):
    write_images(tmp_path)
    write_yolo(tmp_path)
    (tmp_path / 'classes.txt').write_text('cat\n')
    message = refused(tmp_path)
    assert message == f'{tmp_path / "b.txt"} has the class 1, and {tmp_path / "classes.txt"} names 1 classes'


def test_names_that_are_blank_or_there_twice(tmp_path):
    write_images(tmp_path)
    write_yolo(tmp_path)
    (tmp_path / 'data.yaml').write_text('names: ["cat", " "]')
    assert refused(tmp_path) == f'{tmp_path / "data.yaml"} has no name for the class 1'
    (tmp_path / 'data.yaml').write_text('names: [cat, cat]')
    data = read_folder(tmp_path)
    assert data.classes == ('cat',)
    assert f'{tmp_path / "data.yaml"} names several classes cat: they become one' in data.notes


def test_sizes_of_other_images(tmp_path):
    write_images(tmp_path, 'bd')
    write_voc(tmp_path, 'b')
    (tmp_path / 'd.xml').write_text((tmp_path / 'b.xml').read_text())
    assert 'd.jpg: 50 x 60 pixels, but 30 x 30 in the annotations' in refused(tmp_path)


def test_boxes_that_are_none(tmp_path):
    write_images(tmp_path, 'ab')
    write_voc(tmp_path, 'ab')
    (tmp_path / 'a.xml').write_text((tmp_path / 'a.xml').read_text().replace('<xmin>5</xmin>', ''))
    message = refused(tmp_path)
    assert message.startswith('all: 1 of 3 annotations cannot be used, first: no box in ')
    assert "a.jpg: bbox [None, '6', '14', '13'] is not four finite numbers" in message
