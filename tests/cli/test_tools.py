"""Help and errors of the tools' arguments, before anything large is imported."""

import re
import runpy
import subprocess
import sys

import pytest
from helpers import ROOT

from mmdet_detr.checkpoints.convert import TARGETS
from mmdet_detr.cli.fail import errors_in_one_line
from mmdet_detr.errors import CheckpointError, ConfigError
from mmdet_detr.speed.run import MODES

TOOLS = sorted(path.stem for path in (ROOT / 'tools').glob('[a-z]*.py'))
TINY = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py'


def start(tool: str, *arguments: object) -> tuple[int, str, str, set[str]]:
    """Exit code, output and errors of a tool that is started anew, and the packages that it imports."""
    command = [sys.executable, '-X', 'importtime', ROOT / 'tools' / f'{tool}.py', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    imported = {line.split('|')[-1].strip().split('.')[0] for line in lines if line.startswith('import time:')}
    errors = [line for line in lines if not line.startswith('import time:')]
    return done.returncode, done.stdout, '\n'.join(errors), imported & {'torch', 'mmengine', 'mmdet', 'mmdet_detr'}


@pytest.mark.parametrize('tool', TOOLS)
def test_help(tool):
    code, out, err, imported = start(tool, '--help')
    assert (code, err, imported) == (0, '', set())
    assert 'usage:' in out
    assert '--gpus' not in out  # mim would then pass options that mmdet's script does not have
    assert ('--safe-config' in out) == (tool in ('train', 'test'))


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('train', [], 'required: config'),
        ('train', ['nothing.py'], 'train: no such file: nothing.py'),
        ('train', [TINY, '--cfg-options', 'a=1', 'b'], "train: --cfg-options takes KEY=VALUE, got 'b'"),
        ('train', [TINY, '--lanucher', 'pytorch'], 'unrecognized arguments: --lanucher'),
        ('test', [TINY], 'required: checkpoint'),
        ('test', [TINY, 'nothing.pth', '--safe-config'], 'test: no such file: nothing.pth'),
        ('test', [TINY, 'https://nowhere/x.pth', '--tta'], 'test: --tta is off'),
        ('make_shapes', ['--train', 'many'], 'invalid int value'),
        ('report', [], 'required: work_dir'),
        ('predict', ['run'], 'required: INPUT'),
        ('predict', ['run', 'a.jpg', '--tiles', '0'], "invalid number of at least 1 value: '0'"),
        ('predict', ['run', 'a.jpg', '--score-thr', '2'], "invalid number between 0 and 1 value: '2'"),
        ('attention', ['run'], 'required: IMAGE'),
        ('attention', ['run', 'a.jpg', '--points', '3'], "invalid x,y value: '3'"),
        ('export', ['run'], 'required: OUT'),
        ('export', ['run', 'a.onnx', '--size', '64'], 'expected 2 arguments'),
        ('export', ['run', 'a.onnx', '--batch', '0'], "invalid number of at least 1 value: '0'"),
        ('export', ['run', 'a.onnx', '--to', 'tflite'], 'invalid choice'),
        ('convert_checkpoint', ['a', 'b', '--to', 'c'], 'invalid choice'),
        ('check_data', [TINY, '--cfg-options', 'nothing'], 'check_data: --cfg-options takes KEY=VALUE'),
        ('benchmark', [TINY, '--mode', 'sleep'], 'invalid choice'),
        ('benchmark', [TINY, '--size', '64'], 'invalid HEIGHTxWIDTH value'),
        ('benchmark', [TINY, '--rounds', '0'], 'must be at least 1'),
        ('benchmark', [TINY, '--checkpoint', 'a', 'b'], '1 configs, but 2 checkpoints'),
    ],
)
def test_errors_of_arguments(tool, arguments, message):
    code, out, err, imported = start(tool, *arguments)
    assert (code, out, imported) == (2, '', set())
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ('tool', 'name', 'choices'), [('convert_checkpoint', 'LAYOUTS', TARGETS), ('benchmark', 'MODES', MODES)]
)
def test_choices_are_those_of_the_package(tool, name, choices):
    assert set(runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'))[name]) == set(choices)


@pytest.mark.parametrize('script', ['', 'def parse_args():\n    return unknown\n', 'def ('])
def test_a_script_that_is_not_known_checks_its_arguments_itself(script, tmp_path, monkeypatch):
    (tmp_path / 'mmdet' / '.mim' / 'tools').mkdir(parents=True)
    (tmp_path / 'mmdet' / '__init__.py').touch()
    (tmp_path / 'mmdet' / '.mim' / 'tools' / 'train.py').write_text(script)
    code = (
        f'import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / "tools")!r}]; sys.argv[1:] = ["--help"]\n'
        'import _arguments; print(_arguments.check_arguments("train"))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ('None\n', '')


@pytest.mark.parametrize('error', [ConfigError('a\n b'), CheckpointError('a b'), OSError('a b'), KeyError])
def test_errors_in_one_line(error, capsys):
    with pytest.raises(KeyError if error is KeyError else SystemExit) as raised, errors_in_one_line('tool'):
        raise error
    if error is not KeyError:
        assert (raised.value.code, capsys.readouterr().err) == (2, 'tool: a b\n')


def test_list_of_commands():
    """Every tool, with the first line of its docstring; at once."""
    code, out, err, imported = start('help')
    assert (code, err, imported) == (0, '', set())
    listed = dict(re.findall(r'^  (\w+) +(\S.+)$', out, re.MULTILINE))
    assert sorted(listed) == TOOLS
    assert (
        listed['report']
        == 'Write a page of a run: curve, predictions, errors, attention and config; and print its AP in one line.'
    )
    for tool, line in listed.items():
        assert (ROOT / 'tools' / f'{tool}.py').read_text().startswith(f'"""{line}'), tool


def test_python_m_runs_a_tool_with_its_exit_code(run_python, tmp_path):
    module = ROOT / 'mmdet_detr' / '__main__.py'
    done = run_python(module, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    assert '  check_data  ' in done.stdout
    done = run_python(module, 'report', 'nothing', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == 'report: no such config or folder of a run: nothing\n'
    done = run_python(module, 'repotr', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("mmdet_detr: no command 'repotr'; there are attention, benchmark, check_data, ")
