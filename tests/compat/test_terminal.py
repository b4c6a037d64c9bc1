import io
import logging
import subprocess
import sys

import pytest
from mmengine.logging import MMLogger
from pycocotools.coco import COCO

from mmdet_detr.compat import terminal


@pytest.mark.parametrize(
    'code', ['import mmdet_detr; mmdet_detr.load', 'import mmdet_detr.own_data', 'import mmdet_detr.evaluation']
)
def test_the_package_is_imported_in_silence(code):
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ('', '')


def test_class_names_are_no_formulas_to_mmdets_visualizer():
    code = """
import mmdet_detr.cli
import numpy as np
from mmengine.visualization import Visualizer
shown = Visualizer(image=np.zeros((40, 80, 3), np.uint8))
shown.draw_texts('a$_$b', np.array([5, 5]), colors='w')
print(shown.get_image().max())
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '255\n'), done.stderr


def passes(text: str, level: int = logging.INFO) -> bool:
    return terminal._NotInFile().filter(logging.LogRecord('mmengine', level, '', 0, text, (), None))


@pytest.mark.parametrize(
    'text',
    [
        '\n' + 60 * '-' + '\nSystem environment:\n    sys.platform: linux',
        'Config:\nmodel = dict()',
        'paramwise_options -- backbone.conv1.weight:lr=1e-05',
        'backbone.bn1.bias is skipped since its requires_grad=False',
        'bbox_mAP_copypaste: 0.344 0.615',
        '"HardDiskBackend" is the alias of "LocalBackend" and the former will be deprecated in future.',
        'The prefix is not set in metric class DumpDetResults.',
    ],
)
def test_known_records_are_in_the_file_only(text):
    assert not passes(text)
    assert not passes(text, logging.WARNING)
    assert passes(f'now: {text}')
    assert passes(text, logging.ERROR)


def test_other_records_pass():
    assert passes('Failed to search registry with scope "mine" in the "model" registry tree')
    assert passes('\n'.join(map(str, range(100))))


@pytest.fixture
def quiet_logger(tmp_path, monkeypatch):
    for module in (terminal.pycocotools.coco, terminal.pycocotools.cocoeval, terminal.mmengine.logging.logger):
        monkeypatch.setattr(module, 'print', terminal._print, raising=False)
    logger = MMLogger('quiet', log_file=str(tmp_path / 'quiet.log'))
    logger.handlers[0].addFilter(terminal._NotInFile())
    monkeypatch.setattr(MMLogger, '_instance_dict', {'quiet': logger})
    return logger


def index() -> None:
    coco = COCO()
    coco.dataset = {'images': []}
    coco.createIndex()


def test_prints_go_to_the_log_of_a_quiet_run(quiet_logger, tmp_path, capsys):
    index()
    terminal._print(' Average Precision  (AP) = 0.5')
    terminal._print('anything else')
    assert capsys.readouterr().out == 'anything else\n'
    lines = (tmp_path / 'quiet.log').read_text().splitlines()
    assert [line.partition('INFO - ')[2] for line in lines] == [
        'creating index...',
        'index created!',
        ' Average Precision  (AP) = 0.5',
    ]


@pytest.mark.parametrize('in_tool', [True, False])
def test_without_a_quiet_run_only_our_tools_drop_prints(in_tool, quiet_logger, monkeypatch, capsys):
    """Somebody else's use of pycocotools prints as ever."""
    quiet_logger.handlers[0].filters.clear()
    monkeypatch.setattr(terminal, '_in_tool', in_tool)
    index()
    terminal._print('anything else')
    assert capsys.readouterr().out == ('' if in_tool else 'creating index...\nindex created!\n') + 'anything else\n'


def test_reports_on_weights_are_short_on_the_terminal_alone(quiet_logger, tmp_path):
    quiet_logger.handlers[0].setStream(shown := io.StringIO())
    terminal.shorten_reports(quiet_logger)
    quiet_logger.warning('Loaded x.pth: 3 entries used\n  classes: 0 of 2\n  missing: a')
    quiet_logger.info('Others\n  have\n  all lines')
    assert 'Loaded x.pth: 3 entries used\n  classes: 0 of 2\n' in shown.getvalue()
    assert 'missing' not in shown.getvalue()
    assert 'Others\n  have\n  all lines\n' in shown.getvalue()
    assert '  classes: 0 of 2\n  missing: a\n' in (tmp_path / 'quiet.log').read_text()
