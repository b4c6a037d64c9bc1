"""The command on a folder with one of everything that goes wrong."""

import io
import json
import shutil
import sys
import time

import pytest
from helpers import ROOT
from mmengine.config import Config
from PIL import Image
from processes import run_tool, start_real

from mmdet_detr.data_check import num_queries_of, sources_of
from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes
from mmdet_detr.errors import ConfigError

CONFIG = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py'


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp('sound')
    for split, count in (('train', 12), ('val', 4)):
        list(write_shapes(root / 'data' / 'shapes', split, count, ShapesOptions()))
    return root


@pytest.fixture
def folder(sound, tmp_path):
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path


def check(folder, *arguments, config=CONFIG) -> tuple[int, str, str]:
    done = run_tool('check_data', config, *arguments, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def edit(folder, split: str, change) -> dict:
    path = folder / 'data' / 'shapes' / 'annotations' / f'instances_{split}.json'
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return document


def problems(folder) -> dict[str, list[tuple[str, bool]]]:
    found = json.loads((folder / 'data_check' / 'data_check.json').read_text())
    return {
        entry['ann_file'].split('_')[-1] or 'training and validation': [
            (p['kind'], p['fatal']) for p in entry['problems']
        ]
        for entry in found
    }


def test_nothing_wrong(folder):
    code, out, err = check(folder)
    assert (code, out.count('nothing wrong')) == (0, 2), out + err
    assert problems(folder) == {'train.json': [], 'val.json': [], 'training and validation': []}
    page = (folder / 'data_check' / 'data_check.md').read_text()
    assert '12 images' in page
    assert 'at most for 10 queries' in page
    assert Image.open(folder / 'data_check' / 'data_check.png').size[0] > 500


def test_one_of_everything(folder):
    shapes = folder / 'data' / 'shapes'
    train, val = sorted((shapes / 'train').iterdir()), sorted((shapes / 'val').iterdir())
    train[0].unlink()
    train[1].write_bytes(train[1].read_bytes()[:-50])
    train[2].write_text('text')
    shutil.copy(train[4], train[3])
    shutil.copy(train[5], val[0])

    def change(document):
        images, annotations = document['images'], document['annotations']
        images[6]['width'] += 1
        images[7]['id'] = images[10]['id']
        images[8]['file_name'] = '../../../etc/passwd'
        document['annotations'] = [a for a in annotations if a['image_id'] != images[9]['id']]
        last = document['annotations'][-1]
        document['annotations'] += [
            {**last, 'id': 1001, 'bbox': [1, 1, 0, 5]},
            {**last, 'id': 1002, 'bbox': [100, 1, 5, 5]},
            {**last, 'id': 1003, 'bbox': [60, 1, 5, 5]},
            {**last, 'id': 1003, 'bbox': [1, 1, float('nan'), 5]},
            {**last, 'id': 1004, 'category_id': 77},
            *({**last, 'id': 2000 + i} for i in range(11)),
        ]

    edit(folder, 'train', change)
    code, out, err = check(folder)
    assert code == 1, out + err
    found = problems(folder)
    assert found['val.json'] == []
    assert found['training and validation'] == [('trained on', True)]
    expected = {
        ('broken image', True): 4,  # missing, cut off, text, other size
        ('duplicate image id', True): 2,
        ('outside the data', True): 1,
        ('degenerate box', True): 1,
        ('box outside its image', True): 1,
        ('box reaches out of its image', False): 1,
        ('duplicate annotation id', False): 1,
        ('no box', True): 1,
        ('unknown category', True): 1,
        ('same image under several names', False): 1,
        ('images without boxes', False): 1,
        ('more objects than queries', False): 1,
    }
    for problem, number in expected.items():
        assert found['train.json'].count(problem) == number, problem
    assert set(found['train.json']) - set(expected) <= {('unknown image', True)}  # boxes of images that are left out
    page = (folder / 'data_check' / 'data_check.md').read_text()
    assert 'cut off or broken: OSError: image file is truncated' in page
    assert 'annotations[' in page
    assert '65 x 64 in the annotations' in page
    assert 'passwd' in page


def test_decode_finds_what_the_head_does_not_say(folder):
    path = sorted((folder / 'data' / 'shapes' / 'train').iterdir())[0]
    stream = io.BytesIO()
    Image.open(path).save(stream, 'PNG')
    content = bytearray(stream.getvalue())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    assert check(folder)[0] == 0
    code, _, _ = check(folder, '--decode')
    assert (code, problems(folder)['train.json']) == (1, [('broken image', True)])


@pytest.mark.parametrize('mark', ['iscrowd', 'ignore'])
def test_crowds_and_what_is_to_be_ignored_are_not_learnt(folder, mark):
    def change(document):
        first = document['images'][0]['id']
        for entry in document['annotations']:
            entry[mark] = int(entry['image_id'] == first)
        crowd = next(entry for entry in document['annotations'] if entry[mark])
        document['annotations'] += [{**crowd, 'id': 5000 + i} for i in range(20)]

    edit(folder, 'train', change)
    assert check(folder)[0] == 0
    assert problems(folder)['train.json'] == [('images without boxes', False)]


def test_what_is_not_evaluated_may_lack_what_evaluation_needs(folder):
    edit(folder, 'val', lambda document: document['annotations'][0].pop('area'))
    assert check(folder)[0] == 1
    assert problems(folder)['val.json'] == [('missing key', True)]
    options = [f'{split}_dataloader.dataset.evaluated=False' for split in ('val', 'test')]
    assert check(folder, '--cfg-options', *options)[0] == 0


def test_a_byte_order_mark_and_a_model_without_head(folder):
    path = folder / 'data' / 'shapes' / 'annotations' / 'instances_val.json'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    code, _, err = check(folder, '--cfg-options', 'model.bbox_head=None', 'model.roi_head=None')
    assert code == 1, err
    assert problems(folder)['val.json'] == [('no annotations', True)]
    assert 'is no JSON in UTF-8: Unexpected UTF-8 BOM' in (folder / 'data_check' / 'data_check.md').read_text()


def test_warnings_alone_are_no_failure(folder):
    edit(folder, 'train', lambda document: document['annotations'][0]['bbox'].__setitem__(2, 100))
    assert check(folder)[0] == 0
    assert problems(folder)['train.json'] == [('box reaches out of its image', False)]


def test_objects_without_masks_are_named_where_masks_are_loaded(folder):
    edit(folder, 'train', lambda document: document['annotations'][3].pop('segmentation'))
    check(folder)
    assert 'no segmentation' not in [kind for kind, _ in problems(folder)['train.json']]
    check(folder, '--cfg-options', 'train_dataloader.dataset.pipeline.1.with_mask=True')
    assert problems(folder)['train.json'].count(('no segmentation', False)) == 1


def test_classes_that_do_not_fit(folder):
    classes = "train_dataloader.dataset.metainfo.classes=['Circle','square','triangle']"
    code, out, _ = check(folder, '--cfg-options', classes)
    assert code == 1
    assert 'class not in the file' in out
    assert 'category that the config leaves out' in out
    order = "train_dataloader.dataset.metainfo.classes=['square','circle','triangle']"
    code, out, _ = check(folder, '--cfg-options', order, 'model.bbox_head.num_classes=4')
    assert [kind for kind, _ in problems(folder)['train.json']] == ['order of the classes', 'num_classes']
    code, out, _ = check(folder, '--cfg-options', "train_dataloader.dataset.metainfo.classes=['x']")
    assert ('no class of the config', True) in problems(folder)['train.json']
    assert ('no boxes', True) in problems(folder)['train.json']


def test_trained_on_the_validation_set(folder):
    options = (
        'train_dataloader.dataset.ann_file=annotations/instances_val.json',
        'train_dataloader.dataset.data_prefix.img=val/',
    )
    code, out, _ = check(folder, '--cfg-options', *options)
    assert code == 1
    assert 'it is all of train, val, test' in out


def test_clean_files_have_nothing_wrong(folder):
    shapes = folder / 'data' / 'shapes'

    def change(document):
        document['annotations'][0]['bbox'] = [1, 1, 0, 0]
        old = document['images'][5]['id']
        document['images'][5]['id'] = 'five'  # validation sorts by id
        document['categories'].append({'id': 'many', 'name': 'many'})
        for entry in document['annotations']:
            entry['image_id'] = 'five' if entry['image_id'] == old else entry['image_id']

    edit(folder, 'train', change)
    next((shapes / 'train').iterdir()).unlink()
    as_validation = (
        'val_dataloader.dataset.ann_file=annotations/instances_train.json',
        'val_dataloader.dataset.data_prefix.img=train/',
    )
    code, out, _ = check(folder, '--clean', 'clean', '--cfg-options', *as_validation)
    assert code == 1
    shutil.copy(folder / 'clean' / 'instances_train.json', shapes / 'annotations')
    code, out, _ = check(folder)
    assert code == 0, out


def test_clean_files_replace_nothing(folder):
    annotations = folder / 'data' / 'shapes' / 'annotations'
    before = (annotations / 'instances_train.json').read_bytes()
    assert check(folder, '--clean', annotations)[0] == 0
    assert (annotations / 'instances_train.json').read_bytes() == before
    assert (annotations / 'instances_train_2.json').exists()


def test_a_missing_file_leaves_the_others_checked(folder):
    code, out, _ = check(folder, '--clean', 'clean', '--cfg-options', 'train_dataloader.dataset.ann_file=none.json')
    assert code == 1
    assert 'none.json: No such file' in out
    assert [path.name for path in (folder / 'clean').iterdir()] == ['instances_val.json']
    assert problems(folder)['val.json'] == []


def test_names_that_are_hard_to_write(folder, monkeypatch):
    def change(document):
        document['images'][0]['file_name'] = '\ud800.jpg'
        document['categories'][0]['name'] = '$\\frac$'
        document['categories'].append({'id': 9, 'name': '\u732b'})
        document['annotations'][0]['category_id'] = 9

    edit(folder, 'train', change)
    for name, value in (('LC_ALL', 'C'), ('PYTHONUTF8', '0'), ('PYTHONCOERCECLOCALE', '0')):
        monkeypatch.setenv(name, value)
    done = start_real(sys.executable, ROOT / 'tools' / 'check_data.py', CONFIG, cwd=folder)
    assert '\\u732b' in done.stdout
    assert done.returncode == 1, done.stderr
    assert ('wrong type', True) in problems(folder)['train.json']


@pytest.mark.parametrize(
    ('arguments', 'config', 'message'),
    [
        ((), 'none.py', 'no such file: none.py'),
        (('--cfg-options', 'train_dataloader.dataset.type=None'), CONFIG, 'reads COCO files, not those of a None'),
        (('--cfg-options', 'train_dataloader={}'), CONFIG, 'train_dataloader has no dataset'),
        (('--cfg-options', 'train_dataloader.dataset.data_prefix.img=s3://x'), CONFIG, 's3://x is on another storage'),
        ((), 'syntax.py', 'syntax.py cannot be read: SyntaxError'),
        ((), 'broken.json', 'broken.json cannot be read: JSONDecodeError'),
        (('--cfg-options', 'train_dataloader.dataset.type=VOCDataset'), CONFIG, 'reads COCO files, not those of a VOC'),
        (('--cfg-options', 'train_dataloader.dataset.type=CocoPanopticDataset'), CONFIG, 'not those of a CocoPan'),
        (('--cfg-options', 'train_dataloader.dataset.type=LVISDataset'), CONFIG, 'not those of a LVIS'),
        (('--cfg-options', 'train_dataloader=5'), CONFIG, 'train_dataloader has no dataset'),
        (('--cfg-options', 'train_dataloader.dataset=[]'), CONFIG, 'train_dataloader is not understood'),
        (('--cfg-options', 'val_dataloader.dataset.ann_file=5'), CONFIG, 'val_dataloader is not understood: TypeError'),
        (('--cfg-options', 'val_dataloader.dataset.metainfo.classes=5'), CONFIG, 'val_dataloader is not understood'),
        (('--cfg-options', 'val_dataloader.dataset.metainfo.classes=cat'), CONFIG, "write classes=('cat',), with the"),
        (('--cfg-options', 'model'), CONFIG, '--cfg-options takes KEY=VALUE'),
        (('--cfg-options', 'model=5'), CONFIG, 'the config has a int as its model'),
    ],
)
def test_bad_input(folder, arguments, config, message):
    for name in ('syntax.py', 'broken.json'):
        (folder / name).write_text('{')
    code, _, err = check(folder, *arguments, config=config)
    lines = [line for line in err.splitlines() if line.startswith('check_data: ')]
    assert (code, len(lines)) == (2, 1)
    assert message in lines[0]


def test_wrapped_data_sets():
    leaf = {'type': 'CocoDataset', 'data_root': 'd', 'data_prefix': {'img': 'i'}, 'metainfo': {'classes': ('a',)}}
    config = Config(
        {
            'train_dataloader': {
                'dataset': {
                    'type': 'RepeatDataset',
                    'dataset': {
                        'type': 'ConcatDataset',
                        'datasets': [{**leaf, 'ann_file': '1.json'}, {**leaf, 'ann_file': '/2.json'}],
                    },
                }
            },
            'test_dataloader': {'dataset': {**leaf, 'ann_file': '1.json'}},
        }
    )
    first, second = sources_of(config)
    assert (first.splits, first.ann_file, first.images) == (('train', 'test'), 'd/1.json', 'd/i')
    assert (second.splits, second.ann_file) == (('train',), '/2.json')
    with pytest.raises(ConfigError, match='no train_dataloader, val_dataloader or test_dataloader to check'):
        sources_of(Config({}))


def test_queries_of_other_models():
    assert num_queries_of({'bbox_head': {'transformer': {'num_queries': 7}}}) == 7
    assert num_queries_of({'neck': [{'type': 'FPN'}, {'num_queries': 9}]}) == 9
    assert num_queries_of({'bbox_head': {'num_classes': 3}}) is None


def test_ten_thousand_images(tmp_path):
    """The time is printed and not asserted, since it depends on the machine."""
    root = tmp_path / 'data' / 'shapes'
    for split in ('train', 'val'):
        list(write_shapes(root, split, 4, ShapesOptions()))
    source = next((root / 'train').iterdir()).read_bytes()

    def many(document):
        image, annotation = document['images'][0], document['annotations'][0]
        document['images'] = [{**image, 'id': i, 'file_name': f'{i}.jpg'} for i in range(10_000)]
        document['annotations'] = [{**annotation, 'id': i, 'image_id': i} for i in range(10_000)]
        for i in range(10_000):
            comment = b'\xff\xfe\x00\x04' + i.to_bytes(2, 'big')
            (root / 'train' / f'{i}.jpg').write_bytes(source[:2] + comment + source[2:])

    edit(tmp_path, 'train', many)
    start = time.perf_counter()
    code, out, err = check(tmp_path)
    print(f'10,000 images in {time.perf_counter() - start:.1f} s')
    assert code == 0, out + err
    assert '10000 images' in (tmp_path / 'data_check' / 'data_check.md').read_text()
