import json

import numpy as np
import pytest

from mmdet_detr.reports.run import _sheet, draw_curve, read_scalars, summarise


@pytest.fixture
def work_dir(tmp_path):
    """A folder with the logs of two runs as mmengine writes them. The second run resumed after iteration 20."""
    runs = {
        '20260101_000000': [(10, 3.0), 0.1, (20, 2.5), 0.2, (30, 2.4)],
        '20260101_010000': [(30, 2.0), 0.3, (40, 1.5)],
    }
    for name, entries in runs.items():
        folder = tmp_path / name / 'vis_data'
        folder.mkdir(parents=True)
        lines = [
            {'coco/bbox_mAP': entry, 'coco/bbox_mAP_50': 2 * entry, 'step': 0}
            if isinstance(entry, float)
            else {'loss': entry[1], 'iter': entry[0], 'step': entry[0]}
            for entry in entries
        ]
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    return tmp_path


def test_evaluations_stand_at_the_iteration_before_them(work_dir):
    scalars = read_scalars(work_dir)
    assert scalars.steps == [10, 20, 30, 40]
    assert scalars.losses == [3.0, 2.5, 2.0, 1.5]
    assert scalars.val_steps == [10, 20, 30]
    assert scalars.ap == [0.1, 0.2, 0.3]
    assert scalars.ap50 == [0.2, 0.4, 0.6]


def test_a_run_started_anew_replaces_what_was_there(work_dir):
    folder = work_dir / '20260101_020000' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(json.dumps({'loss': 9.0, 'iter': 10, 'step': 10}))
    scalars = read_scalars(work_dir)
    assert (scalars.steps, scalars.losses, scalars.ap) == ([10], [9.0], [])


def test_curve_is_a_png(work_dir):
    draw_curve(read_scalars(work_dir), work_dir / 'curve.png')
    assert (work_dir / 'curve.png').read_bytes().startswith(b'\x89PNG')


def test_no_training_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='no scalars'):
        read_scalars(tmp_path)


def test_summary(work_dir):
    assert summarise(work_dir).startswith('not tested yet')
    run = work_dir / '20260101_020000'
    run.mkdir()
    (run / '20260101_020000.json').write_text(json.dumps({'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.75}))
    log = '2026/01/01 02:00:00 - mmengine - INFO - first\nno date\n2026/01/01 02:01:30 - mmengine - INFO - last\n'
    (run / '20260101_020000.log').write_text(log)
    assert summarise(work_dir).startswith('AP 0.500, AP50 0.750, 0:01:30 of training and testing')


def test_sheet_of_pictures_of_two_sizes():
    small, large = np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((4, 5, 3), dtype=np.uint8)
    sheet = _sheet([small, large, small], columns=2, gap=1)
    black = (sheet == 0).all(-1)
    assert sheet.shape == (2 * 5, 2 * 6, 3)
    assert black.sum() == 2 * 6 + 20
    assert black[:2, :3].all()
    assert black[:4, 6:11].all()
    assert black[5:7, :3].all()
