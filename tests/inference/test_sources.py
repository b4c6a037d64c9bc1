"""What the user means by an input."""

import numpy as np
import pytest
from PIL import Image

from mmdet_detr.errors import UserError
from mmdet_detr.inference.sources import Images, Video, VideoFrames, find_input


@pytest.fixture
def folder(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'more/c.jpg', 'more/[1].jpg', 'of [2024]/d.jpg', 'notes.txt', 'clip.MP4'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'empty').mkdir()
    return tmp_path


def test_images(folder):
    def found(pattern: str) -> list[str]:
        images = find_input(f'{folder}/{pattern}')
        assert isinstance(images, Images)
        assert all(path.endswith(f'/{name}') for path, name in zip(images.paths, images.names, strict=True))
        return images.names

    assert found('') == ['a.PNG', 'b.jpg']
    assert found('b.jpg') == ['b.jpg']
    assert found('more/[1].jpg') == ['[1].jpg']
    assert found('*.jpg') == ['b.jpg']
    assert found('of [2024]/*.jpg') == ['d.jpg']
    assert found('**/*.jpg') == ['b.jpg', 'more/[1].jpg', 'more/c.jpg', 'of [2024]/d.jpg']
    assert find_input(f'{folder}/notes.txt').names == ['notes.txt.png']
    (folder / 'grey.pgm').touch()
    assert find_input(f'{folder}/grey.pgm').names == ['grey.pgm.png']  # OpenCV writes no colours to it


@pytest.mark.parametrize(
    ('text', 'source', 'name'),
    [
        ('0', 0, 'camera_0.mp4'),
        ('rtsp://host/live', 'rtsp://host/live', 'live.mp4'),
        ('https://host/film.mov?x=1', 'https://host/film.mov?x=1', 'film.mp4'),
    ],
)
def test_videos_and_cameras(text, source, name):
    assert find_input(text) == Video(source, name)


def test_video_files_and_addresses_of_images(folder, monkeypatch):
    assert find_input(f'{folder}/clip.MP4') == Video(f'{folder}/clip.MP4', 'clip.mp4')
    assert Video(f'{folder}/clip.MP4', 'clip.mp4').title == 'clip.MP4'
    assert Video(2, '').title == 'camera 2'
    address = 'https://host/a%20b.jpg?size=9'
    assert find_input(address) == Images([address], ['a b.jpg'])
    assert find_input('http://host/').names == ['image.png']
    monkeypatch.chdir(folder)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save('7', 'png')
    assert find_input('7') == Images(['7'], ['7.png'])  # a file of this name is no camera


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('nothing.jpg', 'nothing.jpg: no such file or folder, and no image by this pattern'),
        ('*.tif', 'no image by this pattern'),
        ('empty', r"no images in empty \(folders below it are searched by 'empty/\*\*/\*'\)"),
        ('ftp://host/a.jpg', 'only http, https and rtsp'),
    ],
)
def test_nothing_of_the_kind(folder, monkeypatch, text, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        find_input(text)


def test_a_video_that_cannot_be_opened(folder):
    with pytest.raises(UserError, match=r'clip\.MP4 cannot be opened'):
        VideoFrames(Video(f'{folder}/clip.MP4', 'clip.mp4'))
