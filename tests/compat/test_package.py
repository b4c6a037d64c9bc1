import importlib.util
import sys

import pytest
import torch
from helpers import ROOT, make_sample
from mmdet.registry import MODELS
from mmengine.hub import get_config

from mmdet_detr.compat.missing_ops import REGISTERED, _StandInFinder

HAS_OPS = importlib.util.find_spec('mmcv._ext') is not None
without_ops = pytest.mark.skipif(HAS_OPS, reason='mmcv has its compiled operators here')
with_ops = pytest.mark.skipif(not HAS_OPS, reason='mmcv was built without its operators here')

HIDE = "import sys; sys.modules['{}'] = None"
OLD = "import sys, types; sys.modules['mmdet'] = types.ModuleType('mmdet'); sys.modules['mmdet'].__version__ = '2.28.0'"


@pytest.mark.parametrize(
    ('prelude', 'reason'),
    [
        *((HIDE.format(name), name) for name in ('mmdet', 'mmcv', 'mmengine', 'cv2')),
        (OLD, '(found mmdet 2.28.0)'),
        ("import sys; sys.path.insert(0, '.')", 'compiled for another torch'),
    ],
)
def test_import_without_usable_mmdet_shows_both_installs(run_python, tmp_path, prelude, reason):
    if 'sys.path' in prelude:  # an mmcv whose operators do not load
        for module, code in (('__init__', ''), ('_ext', ''), ('ops', 'raise OSError("compiled for another torch")')):
            (tmp_path / 'mmcv').mkdir(exist_ok=True)
            (tmp_path / 'mmcv' / f'{module}.py').write_text(code)
    done = run_python('-c', f'{prelude}; import mmdet_detr', cwd=tmp_path)
    assert done.returncode == 1
    error = done.stderr[done.stderr.index('RuntimeError') :]
    assert 'onedl-mmdetection' in error
    assert 'mmdet==3.3.0' in error
    assert reason in error


def test_found_by_its_scope(run_python):
    """mmengine finds the components by ``mmdet_detr.`` in a config, in a process that never imports them.

    With compiled operators without custom_imports. Without them mmdet.models cannot be imported before mmdet_detr has
    put the stand-in in place, and mmengine imports mmdet first: there the config needs custom_imports.
    """
    path = ROOT / 'configs' / 'detr' / 'detr_tiny_shapes.py'
    code = (
        'from mmengine.config import Config; from mmengine.registry import init_default_scope; import sys\n'
        f'config = Config.fromfile({str(path)!r}, import_custom_modules={not HAS_OPS})\n'
        f'assert ("mmdet_detr" in sys.modules) is {not HAS_OPS}\n'
        'init_default_scope("mmdet")\n'
        'from mmengine.registry import MODELS\n'
        'print(type(MODELS.build(config.model).bbox_head).__module__)\n'
    )
    done = run_python('-c', code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith('mmdet_detr.models.detr_head')


def test_mmdets_own_names_stay(run_python):
    import mmdet.models

    for name in ('DETR', 'DETRHead'):
        assert MODELS.get(name) is getattr(mmdet.models, name)
        assert MODELS.get(f'mmdet_detr.{name}').__module__.startswith('mmdet_detr.')


@with_ops
def test_nothing_is_shadowed_where_operators_exist():
    import mmcv.ops

    assert not any(isinstance(finder, _StandInFinder) for finder in sys.meta_path)
    assert callable(mmcv.ops.nms)
    assert mmcv.ops.__file__


@without_ops
def test_building_a_model_that_needs_operators_says_so():
    config = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    config.backbone.init_cfg = None
    with pytest.raises(ImportError, match=r'FasterRCNN needs the compiled operator mmcv\.ops\.RoIAlign') as error:
        MODELS.build(config)
    assert 'MMCV_WITH_OPS=1' in str(error.value)
    assert 'mmcv==' in str(error.value)


@without_ops
def test_running_a_model_that_needs_operators_says_so():
    config = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model
    config.backbone.init_cfg = None
    config.test_cfg.score_thr = 0.0
    model = MODELS.build(config)
    model.eval()
    with (
        torch.no_grad(),
        pytest.raises(ImportError, match=r'RetinaNet needs the compiled operator mmcv\.ops\.batched_nms'),
    ):
        model(torch.randn(1, 3, 64, 64), [make_sample((64, 64))], mode='predict')


@without_ops
def test_deformable_convolution_says_what_is_missing():
    config = {'type': 'ResNet', 'depth': 50, 'dcn': {'type': 'DCNv2'}, 'stage_with_dcn': (False, False, False, True)}
    with pytest.raises(ImportError, match=r'ResNet needs the compiled operator mmcv\.ops\.ModulatedDeformConv2dPack'):
        MODELS.build(config)


@without_ops
@pytest.mark.parametrize(('name', 'operator'), REGISTERED.items())
def test_operators_that_configs_name(name, operator):
    with pytest.raises(ImportError, match=rf'needs the compiled operator mmcv\.ops\.{operator},'):
        MODELS.build({'type': name})


@with_ops
def test_names_of_the_stand_in_are_mmcvs():
    import mmcv.ops

    for name, operator in REGISTERED.items():
        assert MODELS.get(name) is getattr(mmcv.ops, operator)


@without_ops
def test_stand_in_can_be_imported_in_every_way():
    import mmcv.ops
    from mmcv.ops import RoIPool
    from mmcv.ops.nms import batched_nms

    assert not isinstance(torch.nn.Linear(1, 1), RoIPool)
    assert not hasattr(mmcv.ops, '__wrapped__')
    for operator in (batched_nms, mmcv.ops.nms):  # the second one is a module by now
        with pytest.raises(ImportError, match='nms'):
            operator(torch.zeros(1, 4), torch.zeros(1), 0.5)
