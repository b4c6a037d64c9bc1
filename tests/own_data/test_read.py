"""Every form of folder gives the same COCO documents, box for box."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from helpers import BCCD
from own_pictures import NAMES, PICTURES, coco, voc, write_coco, write_image, write_images, write_voc, write_yolo
from PIL import Image

from mmdet_detr.own_data import OwnData, OwnDataError, read_folder

RACCOON = BCCD.with_name('raccoon')  # photographs, not part of the project


def boxes(data: OwnData) -> dict[str, dict[str, list[tuple]]]:
    """Boxes with the names of their classes, by split and by the stem of the image."""
    found: dict[str, dict[str, list[tuple]]] = {}
    for split, document in data.documents.items():
        assert [image['id'] for image in document['images']] == list(range(1, len(document['images']) + 1))
        assert [entry['id'] for entry in document['annotations']] == list(range(1, len(document['annotations']) + 1))
        assert document['categories'] == [{'id': n, 'name': name} for n, name in enumerate(data.classes, 1)]
        stems = {}
        for image in document['images']:
            path = Path(image['file_name'])
            with Image.open(path) as opened:
                assert opened.size == (image['width'], image['height'])
            stems[image['id']] = path.stem
        found[split] = {stem: [] for stem in stems.values()}
        for entry in document['annotations']:
            name = data.classes[entry['category_id'] - 1]
            found[split][stems[entry['image_id']]].append((name, entry['bbox']))
    return found


def expected(names: str) -> dict[str, list[tuple]]:
    return {name: [(NAMES[label], list(box)) for label, *box in PICTURES[name][2]] for name in names}


def assert_boxes(data: OwnData, **splits: str) -> None:
    found = boxes(data)
    assert found.keys() == splits.keys()
    for split, names in splits.items():
        assert found[split].keys() == set(names)
        for name, wanted in expected(names).items():
            assert [label for label, _ in found[split][name]] == [label for label, _ in wanted]
            for (_, box), (_, wanted_box) in zip(found[split][name], wanted, strict=True):
                assert box == pytest.approx(wanted_box, abs=1e-6)


def test_coco_of_any_names(tmp_path):
    write_images(tmp_path / 'pictures' / 'all')
    write_coco(tmp_path / 'boxes' / 'mine_train.json', 'abc')
    write_coco(tmp_path / 'boxes' / 'mine_validation.json', 'de')
    data = read_folder(tmp_path)
    assert_boxes(data, train='abc', val='de')
    assert (data.kind, data.classes, data.notes, data.most_objects) == ('COCO', NAMES, [], 2)


def test_roboflow(tmp_path):
    """Each split has its images beside its file, and lists a category above the classes."""
    for folder, names in (('train', 'ab'), ('valid', 'de'), ('test', 'cd')):
        write_images(tmp_path / folder, names)
        document = coco(names)
        document['categories'] = [
            {'id': 0, 'name': 'animals', 'supercategory': 'none'},
            *({**category, 'supercategory': 'animals'} for category in document['categories']),
        ]
        (tmp_path / folder / '_annotations.coco.json').write_text(json.dumps(document))
    data = read_folder(tmp_path)
    assert_boxes(data, train='ab', val='de', test='cd')
    assert data.classes == NAMES
    assert data.notes == ['animals: a category above the classes, without boxes; it is left out']
    assert {Path(image['file_name']).parent.name for image in data.documents['val']['images']} == {'valid'}


def test_a_root_of_the_name_of_a_class(tmp_path):
    """Roboflow names it after the project; a split may be listed and be empty."""
    for folder, names in (('train', 'abe'), ('valid', '')):
        (tmp_path / folder).mkdir()
        write_images(tmp_path / folder, names)
        document = coco(names)
        document['categories'].insert(0, {'id': 0, 'name': 'cat', 'supercategory': 'none'})
        (tmp_path / folder / '_annotations.coco.json').write_text(json.dumps(document))
    data = read_folder(tmp_path)
    found = boxes(data)
    assert {**found['train'], **found['val']} == expected('abe')
    assert data.notes == [
        'val is not used: it lists no images',
        'cat: several categories have this name, such as a class and one above it: they become one',
        'no validation split: it gets 1 of the images, drawn by seed 0',
    ]


def test_two_classes_of_one_id(tmp_path):
    write_images(tmp_path, 'ab')
    document = coco('ab')
    document['categories'].append({'id': 1, 'name': 'fox'})
    (tmp_path / 'boxes.json').write_text(json.dumps(document))
    data = read_folder(tmp_path)
    assert data.classes == NAMES
    assert 'fox: a category with the id of another one, which gets its boxes' in data.notes


def test_a_class_that_is_its_own_supercategory_stays(tmp_path):
    """COCO's person is one of person; without boxes it is a class nevertheless."""
    write_images(tmp_path, 'de')
    document = coco('de')
    names = (('person', 'person'), ('hat', 'clothing'), ('coat', 'clothing'), ('clothing', 'none'))
    document['categories'] = [{'id': n, 'name': name, 'supercategory': above} for n, (name, above) in enumerate(names)]
    for entry in document['annotations']:
        entry['category_id'] = 1
    (tmp_path / 'boxes.json').write_text(json.dumps(document))
    data = read_folder(tmp_path)
    assert data.classes == ('person', 'hat', 'coat')
    assert data.notes[0] == 'clothing: a category above the classes, without boxes; it is left out'


def test_coco_as_published(tmp_path):
    for year_split, names in (('train2017', 'abc'), ('val2017', 'de')):
        write_images(tmp_path / year_split, names)
        for kind in ('instances', 'person_keypoints'):
            write_coco(tmp_path / 'annotations' / f'{kind}_{year_split}.json', names)
        captions = {**coco(names), 'annotations': [{'id': 1, 'image_id': 7, 'caption': 'a cat'}]}
        (tmp_path / 'annotations' / f'captions_{year_split}.json').write_text(json.dumps(captions))
    assert_boxes(read_folder(tmp_path), train='abc', val='de')


def test_cvat(tmp_path):
    write_images(tmp_path / 'images' / 'default', ending='.PNG')
    write_coco(tmp_path / 'annotations' / 'instances_default.json', ending='.PNG')
    data = read_folder(tmp_path)
    assert sorted(name for split in boxes(data).values() for name in split) == list('abcde')
    assert data.notes == ['no validation split: it gets 1 of the images, drawn by seed 0']


@pytest.mark.parametrize('prefix', ['images/', 'images\\', '/data/upload/3/', '../../label-studio/media/upload/1/'])
def test_label_studio(tmp_path, prefix):
    write_images(tmp_path / 'images')
    write_coco(tmp_path / 'result.json', first=0, prefix=prefix)
    data = read_folder(tmp_path)
    found = boxes(data)
    assert {**found['train'], **found['val']} == expected('abcde')


def test_images_of_the_same_name_belong_to_their_split(tmp_path):
    for folder, names in (('train', 'ab'), ('val', 'd')):
        write_images(tmp_path / 'images' / folder, names)
        write_image(tmp_path / 'images' / folder / '1.jpg', *PICTURES['a'][:2])
    for split, names in (('train', 'ab'), ('val', 'd')):
        document = coco(f'a{names}'.replace('aab', 'ab'))
        document['images'][0]['file_name'] = '1.jpg'
        (tmp_path / f'{split}.json').write_text(json.dumps(document))
    data = read_folder(tmp_path)
    for split in ('train', 'val'):
        parents = [Path(image['file_name']).parent.name for image in data.documents[split]['images']]
        assert parents == [split] * len(parents)


YAML = 'train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: [cat, dog]\n'


@pytest.mark.parametrize('names', ['names: [cat, dog]', 'names:\n  0: cat\n  1: dog'])
def test_yolo_of_roboflow(tmp_path, names):
    for folder, members in (('train', 'abc'), ('valid', 'd'), ('test', 'e')):
        write_images(tmp_path / folder / 'images', members)
        write_yolo(tmp_path / folder / 'labels', members)
    (tmp_path / 'data.yaml').write_text(YAML.replace('names: [cat, dog]', names))
    data = read_folder(tmp_path)
    assert_boxes(data, train='abc', val='d', test='e')
    assert (data.kind, data.classes, data.notes) == (
        'YOLO',
        NAMES,
        ['images without labels, which count as background: 1'],
    )


def test_an_export_beside_another_folder(tmp_path):
    """Roboflow writes ../train/images and means train/images beside the file, whatever is beside its folder."""
    mine, other = tmp_path / 'mine', tmp_path / 'train'
    for folder, members in ((mine / 'train', 'abc'), (mine / 'valid', 'd'), (other, 'e')):
        write_images(folder / 'images', members)
        write_yolo(folder / 'labels', members)
    (mine / 'data.yaml').write_text(YAML)
    data = read_folder(mine)
    assert_boxes(data, train='abc', val='d')
    assert f'test is not used: {mine / "data.yaml"} names ../test/images, where no images are' in data.notes
    assert not any('outside' in note for note in data.notes)
    for folder in ('images', 'labels'):
        (mine / 'train' / folder).rename(mine / f'old_{folder}')
    data = read_folder(mine)
    assert_boxes(data, train='e', val='d')
    assert f'images outside {mine}: 1, first {other / "images" / "e.jpg"}' in data.notes
    assert read_folder(mine / 'valid' / '..').notes == data.notes


def test_a_list_of_images_beside_another_folder(tmp_path):
    for folder, ending in ((tmp_path / 'mine' / 'images', '.png'), (tmp_path / 'images', '.png')):
        write_images(folder, 'abde', ending)
    write_yolo(tmp_path / 'mine' / 'labels', 'abde')
    (tmp_path / 'mine' / 'train.txt').write_text('../images/a.png\n../images/b.png\n../images/d.png\n')
    (tmp_path / 'mine' / 'data.yaml').write_text('train: train.txt\nnames: [cat, dog]\n')
    data = read_folder(tmp_path / 'mine')
    found = boxes(data)
    assert {*found['train'], *found['val']} == set('abd')
    assert not any('outside' in note for note in data.notes)


@pytest.mark.parametrize(
    ('text', 'classes'),
    [
        ('names: [yes, no]', ('yes', 'no')),
        ('names: [on, off]', ('on', 'off')),
        ('names: {0: y, 1: n}', ('y', 'n')),
        ('names: [0010, 1.50]', ('0010', '1.50')),
        ('names: [null, 2024-05-01]', ('null', '2024-05-01')),
        ("names:\n- 'True'\n- 2024-13-45", ('True', '2024-13-45')),
    ],
)
def test_names_stay_as_they_are_written(tmp_path, text, classes):
    write_images(tmp_path)
    write_yolo(tmp_path)
    (tmp_path / 'data.yaml').write_text(text)
    data = read_folder(tmp_path)
    assert data.classes == classes
    assert [category['name'] for category in data.documents['train']['categories']] == list(classes)


def test_two_images_of_one_label_file(tmp_path):
    write_images(tmp_path, 'abde')
    write_images(tmp_path, 'a', '.png')
    write_yolo(tmp_path)
    for seed in range(8):
        data = read_folder(tmp_path, seed)
        splits = {Path(i['file_name']).name: split for split, d in data.documents.items() for i in d['images']}
        assert len(splits) == 5
        assert splits['a.jpg'] == splits['a.png']
    shared = f'labels that several images share: 1, first {tmp_path / "a.txt"} of a.jpg and a.png; all are used'
    assert shared in data.notes


def test_yolo_of_ultralytics(tmp_path):
    """The path in the file is one of another machine; a list of images stands for a folder."""
    for split, members in (('train', 'ab'), ('val', 'de')):
        write_images(tmp_path / 'images' / split, members, '.PNG')
        write_yolo(tmp_path / 'labels' / split, members)
    (tmp_path / 'val.txt').write_text('./images/val/d.PNG\n./images/val/e.PNG\n')
    (tmp_path / 'mine.yaml').write_text('path: /nowhere/mine\ntrain: images/train\nval: val.txt\nnames: [cat, dog]\n')
    assert_boxes(read_folder(tmp_path), train='ab', val='de')


@pytest.mark.parametrize('where', ['beside', 'labels'])
@pytest.mark.parametrize('listed', ['classes.txt', 'obj.names', None])
def test_yolo_without_yaml(tmp_path, where, listed):
    write_images(tmp_path / ('obj_data' if where == 'beside' else 'images'))
    write_yolo(tmp_path / ('obj_data' if where == 'beside' else 'labels'))
    if listed:
        (tmp_path / listed).write_text('cat\ndog\n')
    data = read_folder(tmp_path)
    found = boxes(data)
    together = {**found['train'], **found['val']}
    names = NAMES if listed else ('class_0', 'class_1')
    assert data.classes == names
    assert any('no data.yaml or classes.txt' in note for note in data.notes) == (listed is None)
    for name, wanted in expected('abcde').items():
        for (label, box), (wanted_label, wanted_box) in zip(together[name], wanted, strict=True):
            assert names.index(label) == NAMES.index(wanted_label)
            assert box == pytest.approx(wanted_box, abs=1e-6)


def test_training_and_validation_of_a_yaml_that_are_one_folder_are_split(tmp_path):
    write_images(tmp_path / 'images')
    write_yolo(tmp_path / 'labels')
    (tmp_path / 'data.yaml').write_text('train: images\nval: images\nnames: [cat, dog]\n')
    found = boxes(read_folder(tmp_path))
    assert not found['train'].keys() & found['val'].keys()
    assert len(found['train']) + len(found['val']) == 5


def test_unusual_lines_of_yolo(tmp_path):
    """A confidence, a polygon, one with a confidence, a float for the class, a box that leaves the image, no box."""
    write_images(tmp_path, 'ad')
    lines = [
        '0 0.5 0.5 0.5 0.5 0.93',
        '1 0.1 0.2 0.5 0.2 0.5 0.8',
        '1 0.1 0.2 0.5 0.2 0.5 0.8 0.77',
        '1.000e+00 0.5 0.5 0.25 0.25',
        '0 0.9 0.5 0.4 0.5',
        '',
        *['0 0.25 0.25 0.5 0.5'] * 10,
        '0 300 200 50 40',
    ]
    (tmp_path / 'a.txt').write_text('\n'.join(lines))
    write_yolo(tmp_path, 'd')
    data = read_folder(tmp_path)
    found = boxes(data)
    wanted = [
        ('class_0', [10, 5, 20, 10]),
        ('class_1', [4, 4, 16, 12]),
        ('class_1', [4, 4, 16, 12]),
        ('class_1', [15, 7.5, 10, 5]),
        ('class_0', [28, 5, 12, 10]),
    ]
    together = {**found['train'], **found['val']}
    for (name, box), (wanted_name, wanted_box) in zip(together['a'], wanted, strict=False):
        assert name == wanted_name
        assert box == pytest.approx(wanted_box, abs=1e-6)
    assert len(together['a']) == 15
    assert any('1 of 17 annotations cannot be used, first: no box in' in note for note in data.notes)
    assert any("bbox '0 300 200 50 40'" in note for note in data.notes)


def test_key_points_of_yolo(tmp_path):
    write_images(tmp_path, 'ad')
    (tmp_path / 'a.txt').write_text('0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 2\n')
    write_yolo(tmp_path, 'd')
    (tmp_path / 'data.yaml').write_text('names: [cat, dog]\nkpt_shape: [2, 3]\n')
    found = boxes(read_folder(tmp_path))
    assert {**found['train'], **found['val']}['a'] == [('cat', [10, 5, 20, 10])]
    (tmp_path / 'data.yaml').write_text('names: [cat, dog]\nkpt_shape: [two, 3]\n')
    with pytest.raises(OwnDataError, match=r"data.yaml: kpt_shape has to be two numbers, got \['two', '3'\]"):
        read_folder(tmp_path)
    (tmp_path / 'a.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    (tmp_path / 'data.yaml').write_text('names: [cat, dog]\nkpt_shape: ~\n')
    found = boxes(read_folder(tmp_path))
    assert {**found['train'], **found['val']}['a'] == [('cat', [10, 5, 20, 10])]


def test_voc_beside_the_images(tmp_path):
    write_images(tmp_path / 'train', 'abc', '.JPEG')
    write_images(tmp_path / 'val', 'de', '.JPEG')
    write_voc(tmp_path / 'train', 'abc', ending='.png')  # the ending in the file is another one
    write_voc(tmp_path / 'val', 'de')
    data = read_folder(tmp_path)
    assert_boxes(data, train='abc', val='de')
    assert (data.kind, data.classes, data.notes) == ('Pascal VOC', NAMES, [])


def test_voc_in_two_folders(tmp_path):
    write_images(tmp_path / 'images')
    write_voc(tmp_path / 'annotations', 'abde')
    data = read_folder(tmp_path)
    found = boxes(data)
    assert {**found['train'], **found['val']} == expected('abde')
    assert data.notes[0] == 'images without .xml file, left out: 1, first images/c.jpg'


def test_vocdevkit(tmp_path):
    root = tmp_path / 'VOCdevkit' / 'VOC2007'
    write_images(root / 'JPEGImages')
    write_voc(root / 'Annotations')
    (root / 'ImageSets' / 'Main').mkdir(parents=True)
    for split, names in (('train', 'ab'), ('val', 'd'), ('trainval', 'abd'), ('test', 'e'), ('cat_train', 'c')):
        text = ''.join(f'{name}\n' for name in names)
        (root / 'ImageSets' / 'Main' / f'{split}.txt').write_text(text)
    data = read_folder(tmp_path)
    assert_boxes(data, train='ab', val='d', test='e')
    assert data.notes == ['.xml files in no list of ImageSets/Main, left out: 1']


def test_difficult_objects_are_crowds(tmp_path):
    write_images(tmp_path, 'ab')
    (tmp_path / 'a.xml').write_text(voc('a', difficult=True))
    write_voc(tmp_path, 'b')
    data = read_folder(tmp_path)
    flags = {
        Path(image['file_name']).stem: [e['iscrowd'] for e in document['annotations'] if e['image_id'] == image['id']]
        for document in data.documents.values()
        for image in document['images']
    }
    assert flags == {'a': [1], 'b': [0, 0]}
    assert 'objects marked as difficult, neither learnt nor counted as missed: 1' in data.notes


@pytest.mark.skipif(not RACCOON.is_dir(), reason=f'the raccoon photographs are not at {RACCOON}')
def test_boxes_of_voc_are_those_of_supervision():
    data = read_folder(RACCOON)
    theirs = sv.DetectionDataset.from_pascal_voc(str(RACCOON / 'images'), str(RACCOON / 'annotations'))
    compared = 0
    for document in data.documents.values():
        for image in document['images']:
            ours = [e['bbox'] for e in document['annotations'] if e['image_id'] == image['id']]
            x1, y1, x2, y2 = theirs.annotations[image['file_name']].xyxy.T
            cut = np.clip([x1, y1, x2, y2], 0, np.array([[image['width'], image['height']] * 2]).T)
            np.testing.assert_allclose(ours, np.array([cut[0], cut[1], cut[2] - cut[0], cut[3] - cut[1]]).T, atol=1e-3)
            compared += len(ours)
    assert compared == 181


@pytest.mark.skipif(not BCCD.is_dir(), reason=f'the BCCD photographs are not at {BCCD}')
def test_bccd_as_yolo_and_as_roboflow(tmp_path):
    """The same boxes as from the original, which are also those that supervision reads from the YOLO form."""
    original = read_folder(BCCD)
    yolo, roboflow = tmp_path / 'yolo', tmp_path / 'roboflow'
    for split, folder in (('train', 'train'), ('val', 'valid')):
        document = json.loads((BCCD / f'{split}.json').read_text())
        for target in (yolo / folder / 'images', yolo / folder / 'labels', roboflow / folder):
            target.mkdir(parents=True)
        shutil.copy(BCCD / f'{split}.json', roboflow / folder / '_annotations.coco.json')
        labels = {category['id']: label for label, category in enumerate(document['categories'])}
        for image in document['images']:
            for target in (yolo / folder / 'images', roboflow / folder):
                (target / image['file_name']).symlink_to(BCCD / 'images' / image['file_name'])
            lines = [
                f'{labels[e["category_id"]]} {(x + w / 2) / image["width"]!r} {(y + h / 2) / image["height"]!r} '
                f'{w / image["width"]!r} {h / image["height"]!r}'
                for e in document['annotations']
                if e['image_id'] == image['id']
                for x, y, w, h in [e['bbox']]
            ]
            (yolo / folder / 'labels' / f'{Path(image["file_name"]).stem}.txt').write_text('\n'.join(lines))
    names = ', '.join(category['name'] for category in document['categories'])
    (yolo / 'data.yaml').write_text(f'train: train/images\nval: valid/images\nnames: [{names}]\n')
    wanted = boxes(original)
    for folder in (yolo, roboflow):
        found = boxes(read_folder(folder))
        assert found.keys() == wanted.keys()
        for split in wanted:
            assert found[split].keys() == wanted[split].keys()
            for image in wanted[split]:
                assert [name for name, _ in found[split][image]] == [name for name, _ in wanted[split][image]]
                for (_, box), (_, wanted_box) in zip(found[split][image], wanted[split][image], strict=True):
                    assert box == pytest.approx(wanted_box, abs=1e-6)
    theirs = sv.DetectionDataset.from_yolo(
        str(yolo / 'valid' / 'images'), str(yolo / 'valid' / 'labels'), str(yolo / 'data.yaml')
    )
    for path, detections in theirs.annotations.items():
        ours = [box for _, box in wanted['val'][Path(path).stem]]
        sizes = detections.xyxy[:, 2:] - detections.xyxy[:, :2]
        kept = sizes.min(axis=1) >= 1
        theirs_xywh = np.concatenate([detections.xyxy[:, :2], sizes], axis=1)[kept]
        np.testing.assert_allclose(np.array(ours).reshape(-1, 4), theirs_xywh, atol=1e-3)
