"""Configs that could run code are refused, and those that are data train."""

import json

import pytest
from helpers import ROOT, shapes_config
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.fileio import dump, load
from mmengine.fileio.io import file_handlers
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, Registry, registry

from mmdet_detr.datasets.shapes import ShapesOptions, write_shapes
from mmdet_detr.safe_config import UnsafeConfigError, forbid_code, require_safe_config


def write(path, content) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('c.py', 'a = 1', 'a Python config is a program'),
        ('c.json', {'_base_': 'other.py'}, 'other.py: --safe-config reads .json'),
        ('c.json', {'_base_': ['sound.json', '../up.py']}, 'up.py: --safe-config reads .json'),
        ('c.json', {'_base_': 'evil::x.py'}, 'the base evil::x.py'),
        ('c.json', {'_base_': 'mmdet::../../x.py'}, 'the base mmdet::'),
        ('c.json', {'_base_': 'mmdet::/evil.py'}, 'the base mmdet::'),
        ('c.json', {'_base_': 'c.json'}, 'is its own base'),
        ('c.json', {'a': {'backend': 'memcached', 'sys_path': '.'}}, 'takes no sys_path'),
        ('c.json', {'_base_': 'none.json'}, 'No such file'),
        ('c.json', {'custom_imports': {'imports': ['mmdet_detr', 'antigravity']}}, "custom_imports 'antigravity'"),
        ('c.json', {'custom_imports': 'antigravity'}, "custom_imports 'antigravity'"),
        ('c.json', {'hooks': [{'x': {'type': 'os.system', 'command': 'true'}}]}, "type 'os.system'"),
        ('c.yaml', 'a: !!pairs [x: {type: os.system}]', "type 'os.system'"),
        ('c.json', {'nms': {'type': "getattr(__import__('os'),'system')('true')"}}, 'is refused'),
        ('c.json', {'default_scope': 'evil'}, "default_scope 'evil'"),
        ('c.json', {'model': {'_scope_': 'evil'}}, "_scope_ 'evil'"),
        ('c.json', {'cmc': {'type': 'mmdet.CameraMotionCompensation', 'warp_mode': 'exit()'}}, 'is refused'),
        ('c.json', {'model': {'type': 'KnowledgeDistillationSingleStageDetector'}}, 'is refused'),
        ('c.json', {'compile': {'options': {'cpp.cxx': [None, './evil']}}}, 'takes no compile'),
        ('c.json', {'x': {"a': exit(), 'b": 1}}, 'takes no key'),
        ('c.yaml', 'a: &x {b: *x, type: os.system}', "type 'os.system'"),
        ('c.json', {'custom_imports': 5}, "custom_imports '5'"),
        ('c.json', {'_base_': 5}, 'neither a file nor a list'),
        ('c.json', {'_ba{{$NONE:se_}}': 'evil.py'}, 'no variables'),
        ('c.json', '[1]', 'holds a list'),
        ('c.json', '{', 'Expecting'),
        ('c.json', '[' * 100_000, 'recursion'),
        ('c.yaml', 'a: !!python/object/apply:os.system ["true"]', 'could not determine a constructor'),
        ('c.yml', 'a: [', 'while parsing'),
    ],
)
def test_refused(tmp_path, name, content, message):
    write(tmp_path / 'sound.json', {'a': 1})
    write(tmp_path / name, content)
    with pytest.raises(UnsafeConfigError, match=message.replace('[', r'\[')) as raised:
        require_safe_config(tmp_path / name)
    assert '\n' not in str(raised.value)


def test_data_is_accepted(tmp_path):
    write(tmp_path / 'base.yaml', 'a: 1\nlist: [1, {type: ResNet}]')
    write(tmp_path / 'c.json', {'_base_': ['base.yaml', 'mmdet::_base_/default_runtime.py'], 'type': 'mmdet.DETR'})
    require_safe_config(tmp_path / 'c.json')
    assert Config.fromfile(tmp_path / 'c.json').list[1].type == 'ResNet'


def test_objects_by_path_are_not_built_and_data_constructs_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, 'get_object_from_string', registry.get_object_from_string)
    monkeypatch.setattr(Registry, 'get', Registry.get)
    assert MODELS.get('mmengine.utils.mkdir_or_exist') is not None
    for ending in ('pickle', 'pkl', 'yaml', 'yml'):
        monkeypatch.setitem(file_handlers, ending, file_handlers[ending])
    forbid_code()
    with pytest.raises(RuntimeError, match=r'Failed to get mmengine\.utils'):
        MODELS.get('mmengine.utils.mkdir_or_exist')
    assert MODELS.get('mmdet_detr.DETRHead') is not None
    for name in ('CameraMotionCompensation', 'mmdet.OpenImagesDataset'):  # a base in an installed package may name them
        with pytest.raises(UnsafeConfigError, match='is refused'):
            MODELS.get(name)
    with pytest.raises(UnsafeConfigError, match='not of mmdet_detr'):  # mmengine would import antigravity.registry
        OPTIM_WRAPPER_CONSTRUCTORS.get('antigravity.Constructor')
    for ending in ('pkl', 'pickle'):  # an ann_file may be a pickle
        dump([1], tmp_path / f'data.{ending}')
        with pytest.raises(UnsafeConfigError, match='a pickle could run code'):
            load(tmp_path / f'data.{ending}')
    for ending in ('yaml', 'yml'):
        dump([1], tmp_path / f'data.{ending}')
        assert load(tmp_path / f'data.{ending}') == [1]
        write(tmp_path / f'data.{ending}', 'a: !!python/object/apply:os.getcwd []')
        with pytest.raises(UnsafeConfigError, match='could not determine a constructor'):
            load(tmp_path / f'data.{ending}')


def test_training_from_json(tmp_path, run_python):
    for split, count in (('train', 8), ('val', 2)):
        list(write_shapes(tmp_path / 'shapes', split, count, ShapesOptions()))
    options = {'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1}
    shapes_config(tmp_path / 'shapes', tmp_path / 'run', **options).dump(tmp_path / 'config.json')
    train = ROOT / 'tools' / 'train.py'
    done = run_python(train, 'config.json', '--safe-config', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'iter_1.pth').exists()
    (tmp_path / 'config.py').write_text('open("executed", "w")')
    done = run_python(train, 'config.py', '--safe-config', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith('train: config.py: --safe-config reads .json')
    assert not (tmp_path / 'executed').exists()
