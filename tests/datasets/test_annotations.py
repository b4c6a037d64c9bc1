import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from mmdet_detr.datasets.annotations import (
    AnnotationError,
    check_annotations,
    check_classes,
    leads_outside,
    read_annotations,
)
from mmdet_detr.datasets.problems import Kind, summary

SOUND = {
    'images': [{'id': 1, 'file_name': 'a.jpg', 'height': 40, 'width': 60}],
    'categories': [{'id': 7, 'name': 'dog'}],
    'annotations': [
        {'id': 1, 'image_id': 1, 'category_id': 7, 'bbox': [1, 2, 10, 12], 'area': 120, 'iscrowd': 0},
        {'id': 2, 'image_id': 1, 'category_id': 7, 'bbox': [5, 5, 6.5, 4], 'area': 26, 'iscrowd': 1},
    ],
}


def changed(path: tuple, value: object) -> dict:
    document = copy.deepcopy(SOUND)
    entry = document
    for key in path[:-1]:
        entry = entry[key]
    if value is KeyError:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return document


def test_nothing_wrong():
    clean, problems = check_annotations(SOUND)
    assert problems == []
    assert clean['images'] == SOUND['images']
    assert [{k: v for k, v in a.items() if k != 'segmentation'} for a in clean['annotations']] == SOUND['annotations']


@pytest.mark.parametrize(
    ('path', 'value', 'kind', 'where'),
    [
        (('annotations', 0), 'text', 'no object', 'annotations[0]'),
        (('annotations', 0, 'bbox'), KeyError, 'missing key', 'annotations[0]'),
        (('annotations', 0, 'image_id'), 99, 'unknown image', 'annotations[0]'),
        (('annotations', 0, 'image_id'), [1], 'unknown image', 'annotations[0]'),
        (('annotations', 0, 'category_id'), 8, 'unknown category', 'annotations[0], image 1'),
        (('annotations', 0, 'category_id'), True, 'unknown category', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), [1, 2, 3], 'no box', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), [1, 2, float('nan'), 4], 'no box', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), [1, 2, 10**400, 4], 'no box', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), ['1', 2, 3, 4], 'no box', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), [1, 2, 0, 4], 'degenerate box', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), [1, 2, -3, 4], 'degenerate box', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), [60, 2, 3, 4], 'box outside its image', 'annotations[0], image 1'),
        (('annotations', 0, 'area'), float('inf'), 'wrong type', 'annotations[0], image 1'),
        (('annotations', 0, 'bbox'), [1, 2, 1e39, 4], 'box outside its image', 'annotations[0], image 1'),
        (('annotations', 0, 'iscrowd'), 'no', 'wrong type', 'annotations[0], image 1'),
        (('annotations', 0, 'ignore'), 2, 'wrong type', 'annotations[0], image 1'),
        (('annotations', 0, 'id'), 1.5, 'wrong type', 'annotations[0]'),
        (('images', 0, 'id'), None, 'wrong type', 'images[0]'),
        (('images', 0, 'width'), '60', 'wrong type', 'images[0]'),
        (('images', 0, 'width'), 0, 'wrong type', 'images[0]'),
        (('images', 0, 'height'), KeyError, 'missing key', 'images[0]'),
        (('images', 0, 'file_name'), '../../etc/passwd', 'outside the data', 'images[0]'),
        (('images', 0, 'file_name'), 'a\0.jpg', 'wrong type', 'images[0]'),
        (('categories', 0, 'name'), 3, 'wrong type', 'categories[0]'),
    ],
)
def test_left_out(path, value, kind, where):
    document = changed(path, value)
    before = copy.deepcopy(document)
    clean, problems = check_annotations(document)
    assert (problems[0].kind.label, problems[0].where, problems[0].fatal) == (kind, where, True)
    assert repr(document) == repr(before)  # NaN is not equal to itself
    assert len(clean[path[0]]) == len(SOUND[path[0]]) - 1
    index(clean)


@pytest.mark.parametrize(
    ('path', 'value', 'kind'),
    [
        (('annotations', 1, 'id'), 1, 'duplicate annotation id'),
        (('annotations', 0, 'bbox'), [50, 2, 20, 4], 'box reaches out of its image'),
        (('annotations', 0, 'segmentation'), [[1, 2, 3, 4]], 'no segmentation'),
        (('annotations', 0, 'segmentation'), 'x', 'no segmentation'),
        (('annotations', 0, 'segmentation'), {'size': [4, 4], 'counts': [16]}, 'no segmentation'),
        (('annotations', 0, 'area'), 0, 'no area'),
        (('annotations', 0, 'iscrowd'), '0', 'text instead of 0 or 1'),
        (('annotations', 0, 'ignore'), '1', 'text instead of 0 or 1'),
    ],
)
def test_used_all_the_same(path, value, kind):
    clean, problems = check_annotations(changed(path, value))
    assert [(p.kind.label, p.fatal) for p in problems] == [(kind, False)]
    coco = index(clean)
    assert len(coco.getAnnIds(imgIds=[1])) == 2
    assert [a['segmentation'] for a in clean['annotations']] == [[], []]
    assert all(a['area'] > 0 for a in clean['annotations'])  # mmdet leaves others out and says nothing


def test_compressed_run_lengths_have_to_fill_the_image():
    """pycocotools decodes shorter ones into memory that nobody has written to."""
    random = np.random.default_rng(0)
    shapes = [random.random((40, 60)) < share for share in (0, 0.01, 0.5, 1)]
    shapes += [np.kron(random.random((4, 6)) < 0.5, np.ones((10, 10)))]
    for shape in shapes:
        runs = mask_api.encode(np.asfortranarray(shape.astype(np.uint8)))
        text = runs['counts'].decode()
        for counts, sound in ((text, True), (text[:-1], False), (text + '1', False), ('', False), ('\0 #', False)):
            given = {'size': [40, 60], 'counts': counts}
            clean, problems = check_annotations(changed(('annotations', 0, 'segmentation'), given))
            assert [p.kind for p in problems] == ([] if sound else [Kind.NO_SEGMENTATION])
            assert clean['annotations'][0]['segmentation'] == (given if sound else [])


def test_polygons_far_away_are_not_drawn():
    """pycocotools would draw all pixels of their edges."""
    near, far = [1, 1, 9, 1, 9, 9], [1, 1, 1e9, 1, 9, 9]
    clean, problems = check_annotations(changed(('annotations', 0, 'segmentation'), [near, far]))
    assert [problem.kind for problem in problems] == [Kind.NO_SEGMENTATION]
    assert clean['annotations'][0]['segmentation'] == [near]


@pytest.mark.parametrize('key', ['iscrowd', 'ignore'])
@pytest.mark.parametrize(('value', 'number'), [('0', 0), ('1', 1), (None, 0), (False, 0), (True, 1), (1.0, 1)])
def test_flags_become_numbers(key, value, number):
    """For mmdet, the text "0" is true."""
    clean, _ = check_annotations(changed(('annotations', 0, key), value))
    assert repr(clean['annotations'][0][key]) == repr(number)


CORNERS = [[10, 8, 22, 20], [30, 20, 55, 38], [2, 3, 8, 5]]  # x1, y1, x2, y2


def with_boxes(boxes: list, **values) -> dict:
    document = copy.deepcopy(SOUND)
    document['annotations'] = [{'image_id': 1, 'category_id': 7, 'bbox': box, **values} for box in boxes]
    return document


def test_corners_for_boxes_show_by_their_areas():
    document = with_boxes(CORNERS)
    for entry, area in zip(document['annotations'], (144, 450, 12), strict=True):
        entry['area'] = area
    (problem,) = [p for p in check_annotations(document)[1] if p.kind is Kind.CORNERS]
    assert str(problem) == (
        'annotations: corners instead of width and height: 3 of 3 boxes look like x1, y1, x2, y2; '
        'the first is [10, 8, 22, 20]'
    )
    assert not problem.fatal


def test_corners_for_boxes_show_by_boxes_far_out():
    found = check_annotations(with_boxes(CORNERS[1:2]))[1]
    assert [problem.kind for problem in found] == [Kind.BOX_REACHES_OUT, Kind.CORNERS]


@pytest.mark.parametrize(
    'boxes',
    [
        [[1, 1, 60, 40], [1, 1, 60, 40]],  # the whole image, counted from 1
        [[10, 8, 22, 20], [2, 3, 8, 5]],
        [*CORNERS[1:2], [10, 8, 22, 20]],  # half of the boxes can be chance
    ],
)
def test_boxes_are_no_corners(boxes):
    found = check_annotations(with_boxes(boxes))[1]
    assert Kind.CORNERS not in {problem.kind for problem in found}


@pytest.mark.parametrize('root_first', [True, False])
def test_a_root_category_without_boxes_gives_way_to_the_class_of_its_name(root_first):
    document = changed(('categories',), [{'id': 0, 'name': 'dog'}, *SOUND['categories']][:: 1 if root_first else -1])
    clean, problems = check_annotations(document)
    assert [str(problem) for problem in problems] == [
        f"categories[{1 - root_first}]: duplicate category: id 0, name 'dog'"
    ]
    assert clean['categories'] == SOUND['categories']
    assert len(clean['annotations']) == 2


@pytest.mark.parametrize(
    ('names', 'classes', 'said'),
    [
        ('abc', 'abc', None),
        ('abc', 'ac', None),
        ('ac', 'abc', 'class not in the file: b; the file has a, c'),
        ('xyz', 'abc', 'no class of the config: a, b, c; the file has x, y, z'),
        ('abc', 'ba', 'order of the classes: the file has a, b, the config b, a: labels get other names'),
        ('abcdefghijk', 'lm', 'no class of the config: l, m; the file has a, b, c, d, e, f, g, h, ...'),
    ],
)
def test_labels_are_those_of_their_classes(names, classes, said):
    document = {'categories': [{'id': i, 'name': name} for i, name in enumerate(names)]}
    assert [str(problem) for problem in check_classes(document, tuple(classes))] == (
        [f'categories: {said}'] if said else []
    )


def test_what_a_lost_image_takes_along():
    clean, problems = check_annotations(changed(('images', 0, 'id'), None))
    assert clean['annotations'] == []
    assert summary(problems) == '2 x unknown image, 1 x wrong type'


def test_duplicates_of_images_and_categories():
    document = changed(('images',), [*SOUND['images'], {**SOUND['images'][0]}])
    document['categories'] += [{'id': 8, 'name': 'dog'}]
    clean, problems = check_annotations(document)
    kinds = [problem.kind for problem in problems]
    assert kinds == [Kind.DUPLICATE_CATEGORY, Kind.DUPLICATE_IMAGE_ID, Kind.FILE_LISTED_TWICE]
    assert (len(clean['images']), len(clean['categories'])) == (1, 1)


def test_objects_of_a_category_listed_twice_under_one_name_are_joined():
    """Both have boxes, so neither may take them along."""
    document = changed(
        ('categories',), [{'id': 7, 'name': 'dog'}, {'id': 'b', 'name': 'dog'}, {'id': 9, 'name': 'cat'}]
    )
    document['annotations'][1]['category_id'] = 'b'
    clean, problems = check_annotations(document)
    assert [str(problem) for problem in problems] == ["categories[1]: duplicate category: id 'b', name 'dog'"]
    assert [category['id'] for category in clean['categories']] == [7, 9]
    assert [entry['category_id'] for entry in clean['annotations']] == [7, 7]


@pytest.mark.parametrize(
    ('place', 'broken'),
    [
        ('categories', {'name': 'cat'}),
        ('categories', {'id': 0}),
        ('images', {'file_name': 'a.jpg', 'height': 40, 'width': 60}),
        ('images', {'id': 0, 'file_name': 'a.jpg', 'height': 'tall', 'width': 60}),
        ('images', {'id': 0, 'height': 40, 'width': 60}),
    ],
)
def test_an_entry_that_is_left_out_is_no_first_of_two(place, broken):
    document = changed(('images', 0, 'id'), 0)
    document['categories'][0]['id'] = 0
    for entry in document['annotations']:
        entry.update(image_id=0, category_id=0)
    document[place].insert(0, broken)
    clean, problems = check_annotations(document)
    assert {problem.where for problem in problems} == {f'{place}[0]'}
    assert len(clean[place]) == 1
    assert len(clean['annotations']) == 2


def test_images_of_different_files_under_one_id_are_all_left_out():
    """Nobody knows which of them an object is in."""
    first = SOUND['images'][0]
    document = changed(('images',), [first, {**first, 'file_name': 'b.jpg'}, {**first, 'id': 2, 'file_name': 'c.jpg'}])
    document['annotations'].append({**SOUND['annotations'][0], 'id': 3, 'image_id': 2})
    clean, problems = check_annotations(document)
    assert [str(p) for p in problems if p.kind is Kind.DUPLICATE_IMAGE_ID] == [
        'images[0]: duplicate image id: 1, of a.jpg, b.jpg',
        'images[1]: duplicate image id: 1, of a.jpg, b.jpg',
    ]
    assert [image['file_name'] for image in clean['images']] == ['c.jpg']
    assert [entry['image_id'] for entry in clean['annotations']] == [2]


@pytest.mark.parametrize('copies', [False, True])
def test_an_image_under_several_ids_has_the_objects_of_all(copies):
    """Some converters write an entry for every object. Each would teach that the others are background."""
    first, (box, other) = SOUND['images'][0], SOUND['annotations']
    document = changed(('images',), [first, {**first, 'id': 2}, {**first, 'id': 3, 'file_name': 'b.jpg'}])
    document['annotations'] = [box, {**other, 'image_id': 2}]
    if copies:  # two files joined into one
        document['annotations'] += [{**box, 'id': 3, 'image_id': 2}, {**other, 'id': 4}]
    clean, problems = check_annotations(document)
    assert [str(problem) for problem in problems] == ["images[1]: file listed twice: 'a.jpg'"]
    assert [image['id'] for image in clean['images']] == [1, 3]
    assert [(entry['image_id'], entry['bbox']) for entry in clean['annotations']] == [
        (1, box['bbox']),
        (1, other['bbox']),
    ]
    apart, _ = check_annotations(document, join=False)  # as pycocotools evaluates the file
    assert [image['id'] for image in apart['images']] == [1, 2, 3]


def test_an_image_under_several_ids_and_sizes_is_not_joined():
    """One of the two sizes is wrong, which a look at the image shows."""
    first = SOUND['images'][0]
    clean, problems = check_annotations(changed(('images',), [first, {**first, 'id': 2, 'width': 61}]))
    assert [problem.kind for problem in problems] == [Kind.FILE_LISTED_TWICE]
    assert [image['id'] for image in clean['images']] == [1, 2]


def test_a_copy_of_an_annotation_is_no_second_object():
    first, second = SOUND['annotations']
    document = changed(('annotations',), [first, second, first, {**first, 'id': 3}, {**second, 'id': 1}])
    clean, problems = check_annotations(document)
    assert [str(problem) for problem in problems] == [
        'annotations[2]: duplicate annotation id: 1',
        'annotations[4]: duplicate annotation id: 1',
    ]
    boxes = [first['bbox'], second['bbox']]  # that of another id may be another object, that of another box is one
    assert [entry['bbox'] for entry in clean['annotations']] == [*boxes, *boxes]
    assert [entry['id'] for entry in clean['annotations']] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ('box', 'reaches_out'),
    [
        ([-0.0009, 2, 10, 12], False),
        ([-0.0011, 2, 10, 12], True),
        ([1, -0.0009, 10, 12], False),
        ([1, -0.0011, 10, 12], True),
        ([50, 2, 10.0009, 12], False),
        ([50, 2, 10.0011, 12], True),
        ([1, 28, 10, 12.0009], False),
        ([1, 28, 10, 12.0011], True),
        ([59.1, 2, 0.1 + 0.2 + 0.6 + 0.1, 12], True),
        ([59.1, 2, 0.9, 12], None),  # too small
    ],
)
def test_boxes_end_outside_by_more_than_rounding(box, reaches_out):
    kinds = [problem.kind for problem in check_annotations(changed(('annotations', 0, 'bbox'), box))[1]]
    expected = Kind.DEGENERATE_BOX if reaches_out is None else Kind.BOX_REACHES_OUT
    assert kinds == ([] if reaches_out is False else [expected])


def test_what_is_missing_is_filled_in():
    document = changed(('annotations', 0), {'image_id': 1, 'category_id': 7, 'bbox': [1, 2, 10, 12]})
    clean, problems = check_annotations(document)
    assert problems == []
    assert {k: clean['annotations'][0][k] for k in ('id', 'area', 'iscrowd')} == {'id': 1, 'area': 120, 'iscrowd': 0}


@pytest.mark.parametrize(
    ('name', 'outside'),
    [
        ('a.jpg', False),
        ('train/a.jpg', False),
        ('train/../a.jpg', False),
        ('..a.jpg', False),
        ('../a.jpg', True),
        ('train/../../a.jpg', True),
        ('..\\a.jpg', True),
        ('/etc/passwd', True),
        ('C:\\a.jpg', True),
        ('s3://bucket/a.jpg', True),
    ],
)
def test_names_that_lead_outside(name, outside):
    assert leads_outside(name) is outside
    _, problems = check_annotations(changed(('images', 0, 'file_name'), name), allow_outside=True)
    assert problems == []


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is no JSON'),
        (b'\xff\xfe\x00', 'is no JSON'),
        (b'[' * 100_000, 'is no JSON'),
        (b'1' * 5000, 'is no JSON'),
        (b'[]', 'holds a list'),
        (b'{"images": [], "annotations": {}, "categories": []}', 'has no list of annotations'),
    ],
)
def test_not_a_coco_file(tmp_path, content, message):
    path = tmp_path / 'file.json'
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=message) as raised:
        read_annotations(path)
    assert str(path) in str(raised.value)
    assert '\n' not in str(raised.value)


def test_no_file(tmp_path):
    with pytest.raises(AnnotationError, match='No such file'):
        read_annotations(tmp_path / 'none.json')


def index(document: dict) -> COCO:
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
numbers = st.integers(-2, 80) | st.floats(-10, 100)
ids = st.integers(0, 3) | values


def entries(**fields):
    return st.lists(st.fixed_dictionaries({}, optional=fields) | values, max_size=5)


documents = st.fixed_dictionaries(
    {
        'images': entries(
            id=ids, file_name=st.sampled_from(['a', '../b']) | values, height=numbers | values, width=numbers | values
        ),
        'categories': entries(id=ids, name=st.sampled_from(['x', 'y']) | values),
        'annotations': entries(
            id=ids,
            image_id=ids,
            category_id=ids,
            bbox=st.lists(numbers, min_size=4, max_size=4) | values,
            area=values,
            segmentation=values | st.lists(st.lists(numbers, max_size=8), max_size=2),
            iscrowd=values,
        ),
    }
)


@settings(max_examples=400, deadline=None)
@given(documents)
def test_any_document(document):
    """No document raises an error, and the clean one can be indexed and has nothing fatal."""
    clean, problems = check_annotations(document)
    assert all(str(problem) and '\n' not in problem.where for problem in problems)
    assert not [problem for problem in check_annotations(clean)[1] if problem.fatal]
    index(clean)
    json.dumps({name: clean[name] for name in ('images', 'categories')})
