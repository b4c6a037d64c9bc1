"""``mim run mmdet_detr predict``: the files that it writes, and its exit codes."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectors import save_checkpoint, small_config, write_images
from helpers import ROOT, loopback_server
from processes import run, run_tool

import mmdet_detr

FRAMES = 11


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a panoptic run, images, and a video."""
    folder = tmp_path_factory.mktemp('predict')
    for name, panoptic in (('run', False), ('panoptic', True)):
        (folder / name).mkdir()
        config = small_config(panoptic)
        save_checkpoint(folder / name, config)
        config.dump(folder / name / 'config.py')
    (folder / 'images').mkdir()
    write_images(folder / 'images')
    writer = cv2.VideoWriter(str(folder / 'film.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5, (96, 64))
    generator = np.random.default_rng(0)
    for _ in range(FRAMES):
        writer.write(generator.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    writer.release()
    return folder


def entries(out: Path) -> list[dict]:
    found = json.loads((out / 'detections.json').read_text())
    with (out / 'detections.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['file'] for row in rows] == [entry['file_name'] for entry in found]
    assert [row['class'] for row in rows] == [entry['category_name'] for entry in found]
    return found


def frames(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    found = []
    while (read := capture.read())[0]:
        found.append(read[1])
    return found


def test_folder_of_images(folder, tmp_path):
    """Detections are those of ``mmdet_detr.load``, and a picture has the name of its image."""
    done = run_tool('predict', folder / 'run', folder / 'images', '--batch', 3, '--score-thr', 0.6, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / 'predictions'
    names = sorted(path.name for path in (folder / 'images').iterdir())
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, 'detections.csv', 'detections.json'])
    detector = mmdet_detr.load(folder / 'run', device='cpu')
    results = detector([folder / 'images' / name for name in names], 0.6)
    found = entries(out)
    expected = [
        (name, box, score)
        for name, result in zip(names, results, strict=True)
        for box, score in zip(result.boxes, result.scores, strict=True)
    ]
    assert len(found) == len(expected) > 10
    for entry, (name, box, score) in zip(found, expected, strict=True):
        assert entry['file_name'] == name
        assert entry['bbox'] == pytest.approx([*box[:2], *(box[2:] - box[:2])], abs=0.02)
        assert entry['score'] == pytest.approx(score, abs=1e-3)
    assert done.stdout.splitlines()[-1].startswith(f'{len(found)} found in 7 images: pictures in predictions')
    assert cv2.imread(str(out / 'turned.jpg')).shape == (60 * 8, 40 * 8, 3)  # upright, and enlarged


def test_masks_of_a_config_with_a_checkpoint_in_tiles(folder, tmp_path):
    model = (folder / 'panoptic' / 'config.py', '--checkpoint', folder / 'panoptic' / 'iter_7.pth')
    image = folder / 'images' / 'colour.png'
    for tiles in ([], ['--tiles', 40]):
        done = run_tool('predict', *model, image, '--out', tmp_path, '--score-thr', 0.1, *tiles)
        assert done.returncode == 0, done.stderr
        found = entries(tmp_path)
        assert found
        assert all(entry['segmentation']['size'] == [64, 64] for entry in found)
        width = cv2.imread(str(tmp_path / 'colour.png')).shape[1]
        assert (width > 448) == (not tiles)  # the panoptic map has a legend


def test_an_address_of_an_image(folder, tmp_path):
    with loopback_server(folder / 'images') as address:
        done = run_tool('predict', folder / 'run', f'{address}/grey.png', '--out', tmp_path, '--score-thr', 0)
    assert done.returncode == 0, done.stderr
    assert len(entries(tmp_path)) == 10


@pytest.mark.parametrize('model', ['run', 'panoptic'])
def test_video(folder, tmp_path, model):
    done = run_tool('predict', folder / model, folder / 'film.avi', '--out', tmp_path, '--score-thr', 0, '--batch', 4)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ['detections.csv', 'detections.json', 'film.mp4']
    written = frames(tmp_path / 'film.mp4')
    assert len(written) == FRAMES
    assert {frame.shape[0] for frame in written} == {64 * 5}
    assert {entry['frame'] for entry in entries(tmp_path)} == set(range(FRAMES))
    assert f'in {FRAMES} frames: video {tmp_path}/film.mp4' in done.stdout


def test_a_video_that_is_cut_off(folder, tmp_path):
    whole = (folder / 'film.avi').read_bytes()
    (tmp_path / 'half.avi').write_bytes(whole[: len(whole) // 2])
    done = run_tool('predict', folder / 'run', tmp_path / 'half.avi', '--out', tmp_path / 'out')
    count = len(frames(tmp_path / 'out' / 'half.mp4'))
    assert (done.returncode, 0 < count < FRAMES) == (0, True)
    assert f'predict: half.avi says that it has {FRAMES} frames: it is cut off' in done.stderr


def test_camera_until_it_is_stopped(folder, tmp_path):
    """A camera stands in here, and Ctrl-C comes at its fourth frame."""
    code = f"""
import runpy, sys
import cv2, numpy as np

class Camera:
    def __init__(self, source):
        assert source == 0
        self.count = 0
    def isOpened(self):
        return True
    def get(self, what):
        return 5.0 if what == cv2.CAP_PROP_FPS else -1.0
    def read(self):
        self.count += 1
        if self.count == 4:
            raise KeyboardInterrupt
        return True, np.full((64, 64, 3), self.count, np.uint8)
    def release(self):
        print('released')

cv2.VideoCapture = Camera
sys.argv[1:] = [{str(folder / 'run')!r}, '0', '--out', {str(tmp_path)!r}, '--score-thr', '0']
runpy.run_path({str(ROOT / 'tools' / 'predict.py')!r}, run_name='__main__')
"""
    done = run('-c', code)
    assert (done.returncode, 'released' in done.stdout) == (0, True), done.stderr
    assert len(frames(tmp_path / 'camera_0.mp4')) == 3
    assert [entry['frame'] for entry in entries(tmp_path)] == [0] * 10 + [1] * 10 + [2] * 10
    assert entries(tmp_path)[0]['file_name'] == 'camera 0'


def test_images_that_cannot_be_read_are_left_out(folder, tmp_path):
    mixed = tmp_path / 'mixed'
    mixed.mkdir()
    (mixed / 'b.png').write_bytes((folder / 'images' / 'grey.png').read_bytes())
    whole = (folder / 'images' / 'turned.jpg').read_bytes()
    for name, content in (('a.png', b'text'), ('c.png', b''), ('d.jpg', whole[: len(whole) // 2])):
        (mixed / name).write_bytes(content)
    done = run_tool('predict', folder / 'run', mixed, '--out', tmp_path / 'out')
    assert done.returncode == 1
    lines = [line.strip() for line in done.stderr.splitlines() if 'left out' in line]
    assert [line.split(': ')[:2] for line in lines] == [
        ['predict', f'left out {mixed / name}'] for name in ('a.png', 'c.png', 'd.jpg')
    ]
    assert (tmp_path / 'out' / 'b.png').exists()
    assert ' in 1 images' in done.stdout
    (mixed / 'b.png').unlink()
    done = run_tool('predict', folder / 'run', mixed, '--out', tmp_path / 'out')
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f'predict: none of 3 images can be read: {mixed / "a.png"}: no image'
    assert 'left out' not in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['run', 'none.jpg'], 'none.jpg: no such file or folder'),
        (['run', 'images/none'], 'no such file'),
        (['none', 'images'], 'no such file: none'),
        (['run/config.py', 'images'], 'run/config.py is a config: name its weights by --checkpoint'),
        (['run/config.py', 'images', '--checkpoint', 'none.pth'], 'no such file: none.pth'),
        (['run', 'images', '--out', 'images'], 'would be overwritten: choose another --out'),
        (['run', 'images', '--device', 'meat'], 'there is no device meat'),
        (['run', 'broken.mp4'], 'broken.mp4 cannot be opened'),
    ],
)
def test_bad_input_is_one_line(folder, arguments, message):
    (folder / 'broken.mp4').write_bytes(b'broken')
    done = run_tool('predict', *arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert not (folder / 'predictions').exists()
