"""benchmarks/cuda.py runs on the CPU as it does on CUDA, and tells what is missing."""

import contextlib
import json
import logging
import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT
from processes import start_real
from scipy.optimize import linear_sum_assignment

import mmdet_detr.speed.malloc
from mmdet_detr.models.matching import assignment
from mmdet_detr.speed.stages import TRAIN_STAGES

sys.path.append(str(ROOT))
from benchmarks import cuda, cuda_steps, matching, solvers, turns

OURS = str(ROOT / 'configs' / 'detr' / 'detr_tiny_shapes_plain.py')
PEER = str(ROOT / 'configs' / 'peers' / 'mmdet-detr_tiny_shapes.py')
COMPILES = hasattr(torch.compiler, 'is_compiling')  # not in PyTorch 2.1
TINY = ['--device', 'cpu', '--size', '32x64', '--config', OURS, '--peer', PEER, '--rounds', '1']


@pytest.fixture(autouse=True)
def small_settings(monkeypatch):
    monkeypatch.setattr(cuda_steps, 'BATCHES', (1, 2))
    monkeypatch.setattr(matching, 'SETTINGS', ((1, 2),))
    monkeypatch.setattr(solvers, 'SETTINGS', ((1, 2, 5), (2, 3, 5)))
    monkeypatch.setattr(mmdet_detr.speed.malloc, 'keep_freed_memory', lambda: None)
    monkeypatch.setattr(torch, 'compile', lambda function, **options: function)  # the path, without the compiler
    yield
    logging.disable(logging.NOTSET)


def batch_linear_assignment(costs: torch.Tensor) -> torch.Tensor:
    """torch-linear-assignment's interface by SciPy, for no more objects than queries."""
    return torch.stack([torch.from_numpy(linear_sum_assignment(cost.numpy())[1]) for cost in costs])


def test_every_row_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(assignment, 'batch_linear_assignment', batch_linear_assignment)
    options = [] if COMPILES else ['--no-compile']
    assert cuda.main([*TINY, *options, '--out', str(tmp_path)]) == 0
    results = json.loads((tmp_path / 'cuda.json').read_text())
    assert results['left_out'] == {}

    compiled = 'detr_tiny_shapes_plain_compiled'
    names = ('detr_tiny_shapes_plain', 'mmdet-detr_tiny_shapes', *([compiled] if COMPILES else []))
    rows = {(row['mode'], row['batch'], row['detector'], row['dtype']): row for row in results['rows']}
    cases = [(mode, batch) for mode in ('train', 'infer') for batch in (1, 2)]
    assert set(rows) == {(*case, name, dtype) for case in cases for name in names for dtype in ('float32', 'bfloat16')}
    assert len(results['rows']) == len(rows)
    for (mode, batch, name, _), row in rows.items():
        seconds = row['stages']['model'][0] if mode == 'infer' else row['total'][0]
        assert min(value for values in row['stages'].values() for value in values) > 0
        assert row['total'][0] == pytest.approx(sum(values[0] for values in row['stages'].values()))
        assert row['images_a_second'][0] == pytest.approx(batch / seconds)
        first = rows[mode, batch, names[0], 'float32']
        first_seconds = first['stages']['model'][0] if mode == 'infer' else first['total'][0]
        if name == compiled:  # another round, in which the plain detector took other seconds
            assert row['times_first'][0] > 0
        else:
            assert row['times_first'][0] == pytest.approx(first_seconds / seconds)
        if mode == 'train':
            assert tuple(row['stages']) == TRAIN_STAGES

    assert [row['detector'] for row in results['copies']] == list(names[:2])
    assert all(row['to_host'] == row['to_device'] == row['waits'] == 0 for row in results['copies'])
    ours = {row['loss']: row for row in results['losses'] if row['next_times_ours'] == row['first_times_ours'] == 1}
    assert set(ours) == {'softmax', 'focal'}
    for row in results['losses']:
        expected = row['next_ms'] / ours[row['loss']]['next_ms']
        assert row['next_times_ours'] == pytest.approx(expected, rel=0.05)
    assert {'mmdet DETRHead', 'mmdet ConditionalDETRHead'} <= {row['implementation'] for row in results['losses']}
    for row in results['solvers']:
        assert row['ratio'] == pytest.approx(row['scipy_ms'][0] / row['torch_linear_assignment_ms'][0])

    page = (tmp_path / 'cuda.md').read_text()
    assert page in capsys.readouterr().out
    titles = [line.strip('*') for line in page.splitlines() if line.startswith('**')]
    assert titles == [
        *(f'{kind}, 32 x 64, batch {batch}' for batch in (1, 2) for kind in ('Training', 'Inference')),
        'One training step, float32, batch 1',
        'The loss step: matching, losses, backward',
    ]
    tables = [block.splitlines() for block in page.split('\n\n') if block.startswith('|')]
    measured = sum(len(results[name]) for name in ('rows', 'copies', 'losses', 'solvers'))
    assert sum(len(lines) - 2 for lines in tables) == measured
    for head, *lines in tables:
        assert {line.count('|') for line in lines} == {head.count('|')}
    assert f'device_solver_from={solvers.threshold(results["solvers"])}`' in page


def test_what_there_is_no_time_for_is_told(tmp_path, capsys):
    assert cuda.main([*TINY, '--no-compile', '--minutes', '0', '--out', str(tmp_path)]) == 1
    results = json.loads((tmp_path / 'cuda.json').read_text())
    assert results['rows'] == results['copies'] == results['losses'] == results['solvers'] == []
    left_out = {name: why for name, why in results['left_out'].items() if not name.startswith('solvers')}
    assert set(left_out.values()) == {'no time left, see --minutes'}
    assert list(left_out)[2:6] == ['train, batch 1', 'infer, batch 1', 'loss, softmax, 1 x 2', 'loss, focal, 1 x 2']
    page = (tmp_path / 'cuda.md').read_text()
    assert all(f'- {name}: {why}\n' in page for name, why in left_out.items())
    assert 'cuda: left out: train, batch 1: no time left, see --minutes\n' in capsys.readouterr().out


def test_losses_that_cannot_be_built_do_not_stop_the_rest(monkeypatch, tmp_path):
    def broken():
        raise RuntimeError('no such\noperator')

    monkeypatch.setattr(matching, 'implementations', broken)
    assert cuda.main([*TINY, '--no-compile', '--minutes', '0', '--out', str(tmp_path)]) == 1
    left_out = json.loads((tmp_path / 'cuda.json').read_text())['left_out']
    assert left_out['loss'] == 'RuntimeError: no such operator'
    assert left_out['infer, batch 2'] == 'no time left, see --minutes'


def test_missing_solver_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(assignment, 'batch_linear_assignment', None)
    cuda.main([*TINY, '--no-compile', '--minutes', '0', '--out', str(tmp_path)])
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith('cuda: left out: solvers')]
    assert shown == [
        'cuda: left out: solvers: torch-linear-assignment is not installed: pip install "mmdet_detr[gpu-solver]"'
    ]


def test_no_cuda_is_one_line_and_exit_code_2(run_python, tmp_path):
    finished = run_python(ROOT / 'benchmarks' / 'cuda.py', '--out', tmp_path / 'out')
    assert finished.returncode == 2
    assert finished.stdout == ''
    assert finished.stderr == f'cuda: PyTorch {torch.__version__} finds no CUDA device\n'
    assert not (tmp_path / 'out').exists()


def test_no_mmdet_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, 'benchmarks.cuda_steps', None)
    monkeypatch.delattr('benchmarks.cuda_steps')
    assert cuda.main([*TINY, '--out', str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith('cuda: ')
    assert error.count('\n') == 1


def test_the_script_does_not_hide_nvidias_package(monkeypatch, tmp_path):
    """PyTorch with CUDA imports cuda.bindings."""
    (tmp_path / 'cuda' / 'bindings').mkdir(parents=True)
    (tmp_path / 'cuda' / 'bindings' / '__init__.py').write_text('')
    (tmp_path / 'torch.py').write_text('import cuda.bindings\nraise ImportError(cuda.bindings.__file__)\n')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))
    finished = start_real(sys.executable, ROOT / 'benchmarks' / 'cuda.py')
    assert finished.stderr == f'cuda: {tmp_path}/cuda/bindings/__init__.py\n'


def test_others_are_measured_where_a_detector_fails():
    detectors = [turns.Detector(path, 'float32', 'cpu') for path in (OURS, 'none.py')]
    failed = []
    rows = turns.take_turns(
        detectors, 'infer', (32, 64), 1, 1, time.monotonic() + 600, lambda *arguments: failed.append(arguments)
    )
    assert list(rows) == detectors[:1]
    assert [(detector, str(error)) for detector, error in failed] == [(detectors[1], 'no such file: none.py')]


def test_rounds_end_with_the_time(monkeypatch):
    """Rounds of one second: of ten, those that begin in time, and none with fewer than three."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(turns, 'time', SimpleNamespace(monotonic=lambda: clock.now))

    def step():
        clock.now += 1
        return {'preprocessing': 1.0, 'model': clock.now, 'postprocessing': 1.0}

    detector = turns.Detector(OURS, 'float32', 'cpu')
    monkeypatch.setattr(turns.Detector, 'step', lambda *arguments: (step, None))
    rows = turns.take_turns([detector], 'infer', (32, 64), 1, 10, 5.0, lambda *arguments: None)
    assert rows[detector]['stages']['model'] == [3, 2, 4]  # median and quartiles of 1 to 5
    clock.now = 0.0
    with pytest.raises(turns.OutOfTime):
        turns.take_turns([detector], 'infer', (32, 64), 1, 10, 2.0, lambda *arguments: None)


def test_copies_are_counted_by_the_names_of_events(monkeypatch):
    names = ['Memcpy DtoH (Device -> Pageable)', 'aten::copy_', 'cudaStreamSynchronize', 'cudaDeviceSynchronize']
    names += ['Memcpy HtoD (Pinned -> Device)'] * 2
    profiler = SimpleNamespace(events=lambda: [SimpleNamespace(name=name) for name in names])
    monkeypatch.setattr(turns, 'profile', lambda **options: contextlib.nullcontext(profiler))
    row = turns.count_copies(turns.Detector(OURS, 'float32', 'cpu'), (32, 64), 1)
    assert row == {'detector': 'detr_tiny_shapes_plain', 'batch': 1, 'to_host': 1, 'to_device': 2, 'waits': 1}


def test_loss_without_operators_and_another_loss():
    def without_operator(logits, boxes, samples):
        raise ImportError('needs the compiled operator mmcv.ops.sigmoid_focal_loss')

    ours, failed = matching.ours(), {}
    steps = {
        'ours': ours,
        'needs operators': without_operator,
        'wrong': lambda *batch: {'loss': 1.01 * sum(ours(*batch).values())},
    }
    rows = matching.compare('softmax', steps, 1, 2, 'cpu', 1, lambda name, error: failed.update({name: type(error)}))
    assert [row['implementation'] for row in rows] == ['ours']
    assert failed == {'needs operators': ImportError, 'wrong': ValueError}


@pytest.mark.parametrize(
    ('ratios', 'expected'),
    [
        ((0.5, 0.9, 2.0), 60),
        ((1.1, 1.2, 1.3), 8),
        ((1.5, 0.9, 1.0), None),
        ((1.5, 0.9, 1.1), 60),
        ((0.5, 1.5, 2.0), 30),
    ],
)
def test_threshold_by_hand(ratios, expected):
    rows = [{'objects': n, 'ratio': ratio} for n, ratio in zip((8, 30, 60), ratios, strict=True)]
    assert solvers.threshold(rows) == expected
