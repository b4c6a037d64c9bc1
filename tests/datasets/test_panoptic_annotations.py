import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panoptic_files import CAR, CATEGORIES, CLASSES, PERSON, ROAD, SKY, document

from mmdet_detr.datasets.panoptic_annotations import check_panoptic, of_classes, restore_panoptic, split_classes
from mmdet_detr.datasets.problems import Kind


def changed(path: tuple, value: object) -> dict:
    given = document()
    entry = given
    for key in path[:-1]:
        entry = entry[key]
    if value is KeyError:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return given


def test_nothing_wrong():
    given = document()
    before = copy.deepcopy(given)
    clean, problems = check_panoptic(given)
    assert problems == []
    assert given == before
    assert [(image['id'], image['segment_map']) for image in clean['images']] == [
        (10, 'map 10.png'),
        (11, 'map 11.png'),
    ]
    assert [(e['id'], e['image_id'], e['segment_id']) for e in clean['annotations']] == [
        (1, 11, PERSON), (2, 11, CAR), (3, 11, SKY), (4, 11, ROAD),
        (5, 10, PERSON), (6, 10, CAR), (7, 10, SKY), (8, 10, ROAD),
    ]  # fmt: skip
    assert clean['annotations'][1]['iscrowd'] == 1
    restored = restore_panoptic(clean)
    assert restored['images'] == before['images']
    assert restored['annotations'] == before['annotations'][::-1]  # now in the order of the images


def test_segments_of_a_category_listed_twice_under_one_name_are_joined():
    given = document()
    given['categories'].append({'id': 77, 'name': 'sky', 'isthing': 0})
    given['annotations'][1]['segments_info'][2]['category_id'] = 77
    clean, problems = check_panoptic(given)
    assert [str(problem) for problem in problems] == ["categories[4]: duplicate category: id 77, name 'sky'"]
    assert clean['categories'] == CATEGORIES
    assert [entry['category_id'] for entry in clean['annotations']] == [1, 3, 11, 20] * 2


NO_ID = 'is no number of 1 to 16777215'
SECOND = ('annotations', 1, 'segments_info')  # of image 10


@pytest.mark.parametrize(
    ('path', 'value', 'said'),
    [
        ((*SECOND, 0), 7, 'annotations[1].segments_info[0]: no object: a int'),
        ((*SECOND, 0, 'id'), KeyError, 'annotations[1].segments_info[0], image 10: missing key: id'),
        ((*SECOND, 0, 'category_id'), KeyError, 'annotations[1].segments_info[0], image 10: missing key: category_id'),
        ((*SECOND, 1, 'id'), PERSON, f'annotations[1].segments_info[1], image 10: duplicate segment id: {PERSON}'),
        ((*SECOND, 0, 'id'), 0, f'annotations[1].segments_info[0], image 10: wrong type: id 0 {NO_ID}'),
        ((*SECOND, 0, 'id'), '9', f"annotations[1].segments_info[0], image 10: wrong type: id '9' {NO_ID}"),
        ((*SECOND, 0, 'id'), True, f'annotations[1].segments_info[0], image 10: wrong type: id True {NO_ID}'),
        ((*SECOND, 0, 'id'), 256**3, f'annotations[1].segments_info[0], image 10: wrong type: id 16777216 {NO_ID}'),
        (
            (*SECOND, 0, 'category_id'),
            9,
            f'annotations[1].segments_info[0], image 10: unknown category: category_id 9 of segment {PERSON}',
        ),
        ((*SECOND, 0, 'iscrowd'), 3, 'annotations[1].segments_info[0], image 10: wrong type: iscrowd 3 is not 0 or 1'),
    ],
)
def test_segments_that_are_left_out(path, value, said):
    clean, problems = check_panoptic(changed(path, value))
    assert [(str(problem), problem.fatal) for problem in problems] == [(said, True)]
    assert len(clean['annotations']) == 7
    assert len(clean['images']) == 2


@pytest.mark.parametrize(
    ('path', 'value', 'said'),
    [
        ((*SECOND, 0, 'bbox'), [2, 1, 0, 3], f'box of a segment: segment {PERSON}: degenerate box: 0 x 3 pixels'),
        ((*SECOND, 0, 'bbox'), 'x', f"box of a segment: segment {PERSON}: no box: bbox 'x' is not four finite numbers"),
        ((*SECOND, 0, 'iscrowd'), '1', "text instead of 0 or 1: iscrowd '1'"),
        ((*SECOND, 0, 'bbox'), [2, 1, 9, 3], 'box reaches out of its image: [2, 1, 9, 3] of 8 x 6'),
    ],
)
def test_segments_that_are_used_all_the_same(path, value, said):
    clean, problems = check_panoptic(changed(path, value))
    assert [(str(p), p.fatal) for p in problems] == [(f'annotations[1].segments_info[0], image 10: {said}', False)]
    (entry,) = (e for e in clean['annotations'] if e['image_id'] == 10 and e['segment_id'] == PERSON)
    assert ('bbox' in entry) == ('reaches' in said or path[-1] != 'bbox')
    assert entry['iscrowd'] == (path[-1] == 'iscrowd')


@pytest.mark.parametrize('key', ['area', 'bbox', 'iscrowd'])
def test_what_may_be_missing(key):
    given = document()
    for entry in given['annotations']:
        for segment in entry['segments_info']:
            del segment[key]
    clean, problems = check_panoptic(given)
    assert problems == []
    assert [e['iscrowd'] for e in clean['annotations']] == [0, int(key != 'iscrowd'), 0, 0] * 2


@pytest.mark.parametrize(
    ('path', 'value', 'said'),
    [
        (('annotations', 1), None, 'annotations[1]: no object: a NoneType'),
        (('annotations', 1, 'file_name'), KeyError, 'annotations[1]: missing key: file_name'),
        (('annotations', 1, 'segments_info'), 5, 'annotations[1], image 10: wrong type: segments_info 5'),
        (('annotations', 1, 'image_id'), 99, 'annotations[1]: unknown image: image_id 99'),
        (('annotations', 1, 'image_id'), [1], 'annotations[1]: unknown image: image_id [1]'),
        (('annotations', 1, 'file_name'), '', "annotations[1], image 10: wrong type: file_name ''"),
        (
            ('annotations', 1, 'file_name'),
            '../a.png',
            "annotations[1], image 10: outside the data: file_name '../a.png'",
        ),
    ],
)
def test_annotations_that_are_left_out_with_their_image(path, value, said):
    clean, problems = check_panoptic(changed(path, value))
    lost = 'images[0], image 10: image without segments in the file: no annotation has its id as image_id'
    assert [(str(problem), problem.fatal) for problem in problems] == [(said, True), (lost, True)]
    assert [image['id'] for image in clean['images']] == [11]
    assert {entry['image_id'] for entry in clean['annotations']} == {11}
    clean, problems = check_panoptic(changed(path, value), labelled=False)
    assert [str(problem) for problem in problems] == [said]
    assert [image.get('segment_map') for image in clean['images']] == [None, 'map 11.png']


def test_names_outside_may_be_allowed():
    clean, problems = check_panoptic(changed(('annotations', 1, 'file_name'), '../a.png'), allow_outside=True)
    assert problems == []
    assert clean['images'][0]['segment_map'] == '../a.png'


def test_a_second_annotation_of_an_image():
    given = document()
    given['annotations'].append(copy.deepcopy(given['annotations'][0]))
    clean, problems = check_panoptic(given)
    assert [str(p) for p in problems] == [
        "annotations[2], image 11: second annotation of an image: file_name 'map 11.png'"
    ]
    assert len(clean['annotations']) == 8


def test_a_root_category_without_segments_gives_way():
    given = changed(('categories',), [{'id': 0, 'name': 'car'}, *CATEGORIES])
    clean, problems = check_panoptic(given)
    assert [str(problem) for problem in problems] == ["categories[0]: duplicate category: id 0, name 'car'"]
    assert clean['categories'] == CATEGORIES


NEITHER = 'no isthing of 0 or 1, nor in thing_classes or stuff_classes of metainfo: '
STRANGER = 'thing_classes or stuff_classes of metainfo name no category: '
OPPOSITE = 'isthing is the opposite of what metainfo says: '


@pytest.mark.parametrize(
    ('isthing', 'config', 'said'),
    [
        ([0, 1, 1, 0], {}, []),
        ([False, True, True, False], {}, []),
        ([None] * 4, {'thing_classes': ('person', 'car')}, []),
        ([None] * 4, {'stuff_classes': ('sky', 'road')}, []),
        ([None] * 4, {'thing_classes': ('person', 'car', 'boat'), 'stuff_classes': ('sky', 'road')}, []),
        ([None, 1, 1, 0], {'thing_classes': ('person', 'car'), 'stuff_classes': ('sky', 'road')}, []),
        ([None, 1, 1, 0], {}, [NEITHER + 'road']),
        ([None] * 4, {}, [NEITHER + 'person, car, sky, road']),
        (['0', 1, 1, 0], {}, [NEITHER + 'road']),
        ([None, 1, 1, 0], {'thing_classes': ('car', 'person'), 'stuff_classes': ('sky',)}, [NEITHER + 'road']),
        ([None] * 4, {'thing_classes': ('person', 'cat')}, [STRANGER + 'cat']),
        ([None] * 4, {'stuff_classes': ('sky', 'raod')}, [STRANGER + 'raod']),
        ([0, 1, 1, 0], {'thing_classes': ('person', 'car', 'boat')}, []),
        ([1, 1, 1, 0], {'stuff_classes': ('sky', 'road')}, [OPPOSITE + 'road']),
        ([0, 1, 0, 0], {'thing_classes': ('car', 'person')}, [OPPOSITE + 'person']),
    ],
)
def test_things_and_stuff(isthing, config, said):
    categories = [
        {**category, 'isthing': flag} if flag is not None else {'id': category['id'], 'name': category['name']}
        for category, flag in zip(CATEGORIES, isthing, strict=True)
    ]
    things, stuff, problems = split_classes(categories, CLASSES, **config)
    assert [str(problem) for problem in problems] == [f'categories: thing or stuff: {reason}' for reason in said]
    assert all(problem.fatal for problem in problems)
    if not said:
        assert (things, stuff) == (('person', 'car'), ('sky', 'road'))


def test_things_come_first():
    _, _, (problem,) = split_classes(CATEGORIES, ('person', 'sky', 'road', 'car'))
    assert problem.reason == 'things come first in classes of metainfo, and sky is stuff before the thing car'
    assert problem.kind is Kind.THING_OR_STUFF
    assert split_classes(CATEGORIES, ('bus', 'car'))[2] == []  # a class that the file lacks is said elsewhere


def test_classes_of_the_config_in_its_order():
    clean, _ = check_panoptic(document())
    kept, others = of_classes(clean, ('person', 'sky'))
    assert [category['id'] for category in kept['categories']] == [1, 11]
    assert [entry['segment_id'] for entry in kept['annotations']] == [PERSON, SKY] * 2
    assert others == {'car': 2, 'road': 2}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ids = st.integers(0, 3) | values
sides = st.integers(-2, 80) | values
names = st.sampled_from(['a', '../b']) | values


def entries(**fields):
    return st.lists(st.fixed_dictionaries({}, optional=fields) | values, max_size=5)


segments = entries(
    id=ids, category_id=ids, iscrowd=values, bbox=st.lists(st.integers(-2, 80), min_size=4, max_size=4) | values
)
documents = st.fixed_dictionaries(
    {
        'images': entries(id=ids, file_name=names, height=sides, width=sides),
        'categories': entries(id=ids, name=st.sampled_from(['x', 'y']) | values, isthing=values),
        'annotations': entries(image_id=ids, file_name=names, segments_info=segments | values),
    }
)


@settings(max_examples=300, deadline=None)
@given(documents)
def test_any_document(given):
    """No document raises an error, and the clean one has nothing fatal."""
    clean, problems = check_panoptic(given)
    assert all(str(problem) and '\n' not in problem.where for problem in problems)
    split_classes(clean['categories'], ('x', 'y'))
    again = check_panoptic(restore_panoptic(clean))[1]
    assert not [problem for problem in again if problem.fatal]
    json.dumps({name: clean[name] for name in ('images', 'categories')})
