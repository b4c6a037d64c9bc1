"""Images for validation, drawn by a seed."""

import shutil

import pytest
from own_pictures import write_image

from mmdet_detr.own_data.files import OwnDataError
from mmdet_detr.own_data.split import split_off


def document(folder, number: int, with_boxes: int) -> dict:
    images = []
    for i in range(number):
        write_image(folder / f'{i:02}.png', 20 + i, 20)
        images.append({'id': i, 'file_name': str(folder / f'{i:02}.png'), 'width': 20 + i, 'height': 20})
    annotations = [{'id': i, 'image_id': i, 'category_id': 1, 'bbox': [1, 1, 5, 5]} for i in range(with_boxes)]
    return {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'cat'}]}


def drawn(part: dict) -> list[int]:
    return [image['id'] for image in part['images']]


def test_a_fifth_of_the_images_with_boxes_and_of_those_without(tmp_path):
    train, val = split_off(document(tmp_path, 30, 20), tmp_path, seed=0)
    assert sorted(drawn(train) + drawn(val)) == list(range(30))
    assert sum(i < 20 for i in drawn(val)) == 4
    assert sum(i >= 20 for i in drawn(val)) == 2
    for part in (train, val):
        assert [entry['image_id'] for entry in part['annotations']] == [i for i in drawn(part) if i < 20]


def test_the_seed_and_the_names_decide(tmp_path):
    here, there = document(tmp_path / 'here', 30, 20), document(tmp_path / 'there', 30, 20)
    there['images'].reverse()
    same = [drawn(split_off(here, tmp_path / 'here', 3)[1]) for _ in range(2)]
    assert same[0] == same[1] == drawn(split_off(there, tmp_path / 'there', 3)[1])[::-1]
    assert same[0] != drawn(split_off(here, tmp_path / 'here', 4)[1])


def test_equal_files_and_augmented_copies_stay_together(tmp_path):
    for seed in range(8):
        folder = tmp_path / str(seed)
        given = document(folder, 10, 10)
        for image, other in ((3, 2), (5, 4)):
            shutil.copy(folder / f'{other:02}.png', folder / f'{image:02}.png')
        for image in (6, 7):
            path = folder / f'cat_png.rf.{image:032x}.png'
            (folder / f'{image:02}.png').rename(path)
            given['images'][image]['file_name'] = str(path)
        val = drawn(split_off(given, folder, seed)[1])
        for pair in ((2, 3), (4, 5), (6, 7)):
            assert len(set(pair) & set(val)) in (0, 2)


def test_names_and_contents_link_images(tmp_path):
    """Two files of one name and two of one content are four images that stay together."""
    for seed in range(8):
        folder = tmp_path / str(seed)
        given = document(folder, 10, 10)
        path = folder / '02.bmp'
        (folder / '03.png').rename(path)
        given['images'][3]['file_name'] = str(path)
        shutil.copy(path, folder / '00.png')
        shutil.copy(folder / '02.png', folder / '07.png')
        val = drawn(split_off(given, folder, seed)[1])
        assert len({0, 2, 3, 7} & set(val)) in (0, 4)


def test_a_single_image_cannot_be_split(tmp_path):
    with pytest.raises(OwnDataError, match='a single image with boxes'):
        split_off(document(tmp_path, 5, 1), tmp_path, 0)
