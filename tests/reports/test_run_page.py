import json
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_detr.reports.run_page import _command


def write_run(run: Path, now: dict, *starts: tuple[dict, bool]) -> Path:
    """A folder with a config, and those of its starts, which trained or did not."""
    run.mkdir()
    for n, (values, trained) in enumerate(starts):
        folder = run / f'2026010{n}_000000' / 'vis_data'
        folder.mkdir(parents=True)
        Config(values).dump(folder / 'config.py')
        if trained:
            (folder / 'scalars.json').write_text(json.dumps({'loss': 1, 'iter': 1}))
    Config(now).dump(run / 'tiny.py')
    return run / 'tiny.py'


RANDOM = {'load_from': None, 'resume': False}
TUNED = {'load_from': 'weights of mine.pth', 'resume': False}
RESUMED = {'load_from': None, 'resume': True}
TESTED = {'load_from': 'run/best.pth', 'resume': False}


@pytest.mark.parametrize(
    ('now', 'starts', 'used'),
    [
        (RANDOM, [(RANDOM, True)], 'tiny.py'),
        (TUNED, [(TUNED, True), (RESUMED, True), (TESTED, False)], 'tiny.py'),
        (TESTED, [(RANDOM, True), (TESTED, False)], '20260100_000000/vis_data/config.py'),
        (TESTED, [(RANDOM, True), (TUNED, True), (TESTED, False)], '20260101_000000/vis_data/config.py'),
        (RESUMED, [(TUNED, True), (RESUMED, True)], '20260100_000000/vis_data/config.py'),
        (TUNED, [], 'tiny.py'),
    ],
)
def test_the_command_starts_as_the_training_started(tmp_path, now, starts, used):
    run = tmp_path / 'my run'
    command = shlex.split(_command(write_run(run, now, *starts), run))
    assert command == ['mim', 'train', 'mmdet_detr', str(run / used), '--work-dir', f'{run}-again']
    trained = [values for values, with_loss in starts if with_loss and not values['resume']]
    assert Config.fromfile(run / used).to_dict() == (trained[-1] if trained else now)
