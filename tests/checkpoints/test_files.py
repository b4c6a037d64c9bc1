import argparse
import json
import os
import re
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from foreign import official
from helpers import loopback_server
from mmengine.config import ConfigDict
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from mmdet_detr.checkpoints import CheckpointError, CheckpointNotFoundError
from mmdet_detr.checkpoints.files import load_from_local
from mmdet_detr.checkpoints.source import Source, source_of

WEIGHTS = official().state_dict
OTHER = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.ones(2)}


def source(read: dict) -> Source:
    return source_of(read.get('state_dict', read)._metadata[''])


def equal(read: dict, expected: dict = WEIGHTS) -> bool:
    weights = read['state_dict']
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], v) for name, v in expected.items())


@pytest.fixture(params=[False, True], ids=['torch', 'older torch'])
def either_torch(request, monkeypatch):
    """For releases before 2.6 we have an unpickler of our own."""
    if request.param:
        monkeypatch.setattr(torch, '__version__', '2.1.2')


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'old format'])
@pytest.mark.parametrize(
    'content',
    [
        WEIGHTS,
        {'model': WEIGHTS},
        {'state_dict': WEIGHTS, 'meta': {'epoch': 1}},
        {'model': WEIGHTS, 'optimizer': {'state': {0: torch.zeros(2)}}, 'epoch': 3},
        {'model': {'a.bias': torch.zeros(9)}, 'model_ema': WEIGHTS},
        {'ema': {'module': WEIGHTS, 'updates': 7}, 'epoch': 3},
        {'model': WEIGHTS, 'ema': {'updates': torch.tensor(5)}},
        {'state_dict': WEIGHTS, 'step': torch.tensor(5)},
        {'state_dict': WEIGHTS, 'schedulers': [{'milestones': Counter([100])}], 'seen': {1, 2}},
        {'model': WEIGHTS, 'args': argparse.Namespace(dilation=True, nheads=8)},
        {'model': WEIGHTS, 'args': {'dilation': True, 'nheads': 8}},
        {'state_dict': WEIGHTS, 'meta': {'dataset_meta': ConfigDict(classes=('a',), more={'palette': [1]})}},
        {'state_dict': WEIGHTS, 'numbers': np.zeros(0), 'nothing': b''},
        {'state_dict': WEIGHTS, 'param_schedulers': [{'anneal_func': OneCycleParamScheduler._annealing_cos}]},
    ],
    ids=lambda content: ' '.join(list(content)[:3]),
)
def test_forms_of_files(content, zipped, tmp_path, either_torch):
    path = str(tmp_path / 'file.pth')
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = CheckpointLoader.load_checkpoint(path, 'cpu')
    assert equal(read)
    assert source(read).path == path
    if 'args' in content:
        assert (source(read).dilated, source(read).num_heads) == (True, 8)


def test_entries_that_are_no_weights_are_told(tmp_path):
    torch.save({'model': WEIGHTS, 'optimizer': {}, 'epoch': 3}, tmp_path / 'file.pth')
    read = load_from_local(str(tmp_path / 'file.pth'))
    assert source(read).dropped == dict.fromkeys(('optimizer', 'epoch'), 'no weights of the network')
    assert read['epoch'] == 3


@pytest.mark.parametrize(
    'content',
    [
        OTHER,
        {'state_dict': OTHER, 'state_dict_ema': {}, 'meta': {}},
        {'student': OTHER, 'teacher': OTHER},
        {'params': {'model': OTHER}},
        {'model': {'a': np.zeros(3)}, 'step': 1},
        {},
    ],
    ids=lambda content: ' '.join(content),
)
def test_content_of_other_models_is_left_alone(content, tmp_path):
    torch.save(content, tmp_path / 'file.pth')
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'), 'cpu')
    assert str(read if 'state_dict' in content else dict(read)) == str(
        content if 'state_dict' not in content else {**content, 'state_dict': OrderedDict(OTHER)}
    )


def test_a_stored_config_that_resuming_would_run_is_dropped(tmp_path):
    meta = {'epoch': 1, 'iter': 2, 'cfg': 'a = 1', 'config': 'exit()'}
    torch.save({'state_dict': OTHER, 'meta': meta}, tmp_path / 'file.pth')
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'), 'cpu')
    assert read['meta'] == {'epoch': 1, 'iter': 2, 'cfg': 'a = 1'}


def test_damaged_types_of_numpy_corrupt_no_memory(tmp_path, either_torch):
    """Without two entries of the state of a dtype, NumPy itself writes to memory that is not its own."""
    values = {'array': np.arange(3), 'number': np.float64(2.5), 'turned': np.arange(6.0).reshape(2, 3).T}
    values |= {'big': np.arange(2, dtype='>i2'), 'history': HistoryBuffer([1.0, 2.0], [1, 1]), 'in': [(np.ones(1),)]}
    torch.save(values, tmp_path / 'old', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'old').read_bytes()
    damaged = content.replace(b'NNNJ', b'NJ')
    assert len(damaged) < len(content)
    (tmp_path / 'damaged').write_bytes(damaged)
    for name in ('old', 'damaged'):
        for _ in range(20):
            read = load_from_local(str(tmp_path / name))
            for key in ('array', 'number', 'turned', 'big'):
                np.testing.assert_array_equal(read[key], values[key])
                assert type(read[key]) is type(values[key])
                assert read[key].dtype == values[key].dtype
            assert type(read['in'][0][0]) is np.ndarray
            read['history'].update(3.0)
            assert read['history'].mean() == 2
            torch.save(dict(read), tmp_path / 'again')  # with NumPy's own types
            assert b'numpy_values' not in (tmp_path / 'again').read_bytes()


def test_what_was_read_can_be_saved_and_read_again(tmp_path):
    """The metadata of the weights are plain values."""
    for content in (WEIGHTS, {'state_dict': OTHER}):
        torch.save(content, tmp_path / 'file.pth')
        read = load_from_local(str(tmp_path / 'file.pth'))
        torch.save(read['state_dict'], tmp_path / 'again.pth')
        again = torch.load(tmp_path / 'again.pth', weights_only=True)
        assert again.keys() == content.get('state_dict', content).keys()


def test_safetensors_under_any_name(tmp_path):
    save_file(WEIGHTS, tmp_path / 'file.pth')
    assert equal(load_from_local(str(tmp_path / 'file.pth')))


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_hugging_face_folder(name, tmp_path):
    save_file(WEIGHTS, tmp_path / name) if name.endswith('safetensors') else torch.save(WEIGHTS, tmp_path / name)
    config = {'id2label': {'10': 'b', '9': 'a'}, 'encoder_attention_heads': 4, 'dilation': False}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    read = load_from_local(str(tmp_path))
    assert equal(read)
    facts = source(read)
    assert (facts.classes, facts.num_heads, facts.dilated, facts.unfit) == (('a', 'b'), 4, False, None)
    assert read['meta']['dataset_meta'] == {'classes': ('a', 'b')}  # where mmdet's inference looks
    assert source(load_from_local(str(tmp_path / name))).num_heads == 4  # the file alone: its neighbour tells


@pytest.mark.parametrize(
    ('config', 'unfit'),
    [
        ({'model_type': 'conditional_detr'}, 'its model_type is conditional_detr'),
        ({'activation_function': 'gelu'}, 'its activation_function is gelu'),
        ({'position_embedding_type': 'learned'}, 'its position_embedding_type is learned'),
        ({'encoder_attention_heads': 8, 'decoder_attention_heads': 4}, 'its decoder_attention_heads is 4'),
        ({'backbone_config': {'downsample_in_bottleneck': True}}, 'its downsample_in_bottleneck is True'),
    ],
)
def test_hugging_face_models_that_are_not_ours(config, unfit, tmp_path):
    save_file(WEIGHTS, tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    assert source(load_from_local(str(tmp_path))).unfit == unfit


@pytest.mark.parametrize(
    ('config', 'dilated'),
    [
        ({}, None),
        ({'dilation': False}, False),
        ({'dilation': True}, True),
        ({'dilation': 'false'}, False),
        ({'dilation': False, 'backbone_kwargs': {'output_stride': 16}}, True),
    ],
)
def test_hugging_face_dilation(config, dilated, tmp_path):
    save_file(WEIGHTS, tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    assert source(load_from_local(str(tmp_path))).dilated is dilated


def history_checkpoint() -> dict:
    history = HistoryBuffer()
    history.update(1.5)
    history.update(2.5)
    return {
        'state_dict': OTHER,
        'meta': {'dataset_meta': {'classes': ('a', 'b')}},
        'message_hub': {'log_scalars': {'loss': history}, 'eta': np.float64(3), 'iter': np.int64(4)},
    }


def test_log_history_of_a_training_checkpoint(tmp_path, either_torch):
    torch.save(history_checkpoint(), tmp_path / 'file.pth')
    hub = load_from_local(str(tmp_path / 'file.pth'))['message_hub']
    assert hub['log_scalars']['loss'].mean() == 2
    assert hub['log_scalars']['loss'].statistics('max') == 2.5
    assert (hub['eta'], hub['iter']) == (3, 4)


def test_map_location(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'file.pth')
    save_file(WEIGHTS, tmp_path / 'file.safetensors')
    for name in ('file.pth', 'file.safetensors'):
        read = load_from_local(str(tmp_path / name), 'meta')
        assert all(value.device.type == 'meta' for value in read['state_dict'].values())


class Evil:
    def __init__(self, function, *arguments) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'old format'])
@pytest.mark.parametrize('key', ['state_dict', 'meta'])
def test_code_is_refused(key, zipped, tmp_path, either_torch):
    content = {'state_dict': WEIGHTS, 'meta': {}}
    content[key] = {**content[key], 'x': Evil(os.mkdir, str(tmp_path / 'hacked'))}
    torch.save(content, tmp_path / 'file.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r'file.pth is refused: it would run code \(\w+\.mkdir\) when read\. If you'
    ):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'), 'cpu')
    assert not (tmp_path / 'hacked').exists()


def test_getattr_reaches_nothing_but_the_log_history(tmp_path, either_torch):
    """mmengine's log history needs getattr for its own methods; it may get nothing else."""
    for owner, name in ((HistoryBuffer, '__init__'), (np.ndarray, 'min'), (OneCycleParamScheduler, '__subclasses__')):
        torch.save({'state_dict': WEIGHTS, 'x': Evil(getattr, owner, name)}, tmp_path / 'file.pth')
        with pytest.raises(CheckpointError, match='is refused: it would run code'):
            load_from_local(str(tmp_path / 'file.pth'))


def truncated(path):
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-200])


def truncated_safetensors(path):
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-4])


def folder_with_bad_config(path):
    path.mkdir()
    save_file(WEIGHTS, path / 'model.safetensors')
    (path / 'config.json').write_text('{')


def sharded(path):
    path.mkdir()
    (path / 'model.safetensors.index.json').write_text('{}')


BAD_FILES = [
    ('is empty: copy or download it again', lambda path: path.touch()),
    ('is no checkpoint, or is damaged', truncated),
    ('is no checkpoint, or is damaged: Error', truncated_safetensors),
    ('is no checkpoint, or is damaged', lambda path: path.write_bytes(bytes(range(256)) * 4)),
    ('is no checkpoint, or is damaged', lambda path: path.write_text('<html>404 Not Found</html>')),
    ('is a folder without model.safetensors or pytorch_model.bin', lambda path: path.mkdir()),
    ('holds model.safetensors in several parts: save it in one', sharded),
    ('config.json is no JSON', folder_with_bad_config),
    ('holds a Tensor and no weights', lambda path: torch.save(torch.zeros(1), path)),
]


@pytest.mark.parametrize(('message', 'write'), BAD_FILES)
def test_bad_file(message, write, tmp_path):
    path = tmp_path / 'file.pth'
    write(path)
    with pytest.raises(CheckpointError) as error:
        CheckpointLoader.load_checkpoint(str(path), 'cpu')
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=f'no such file: {tmp_path}/none.pth'):
        load_from_local(str(tmp_path / 'none.pth'))


def test_compressed_is_refused(tmp_path):
    """A small file could fill the memory."""
    torch.save({'state_dict': {'x': torch.zeros(10**6)}}, tmp_path / 'sound.pth')
    with (
        zipfile.ZipFile(tmp_path / 'sound.pth') as sound,
        zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in sound.namelist():
            bomb.writestr(name, sound.read(name))
    assert (tmp_path / 'bomb.pth').stat().st_size < 10_000
    with pytest.raises(CheckpointError, match='is refused: it is compressed'):
        load_from_local(str(tmp_path / 'bomb.pth'))


def test_address_is_downloaded_once_and_read_safely(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    (tmp_path / 'host' / 'one').mkdir(parents=True)
    (tmp_path / 'host' / 'two').mkdir()
    save_file(WEIGHTS, tmp_path / 'host' / 'one' / 'model.safetensors')
    torch.save({'x': Evil(os.mkdir, str(tmp_path / 'hacked'))}, tmp_path / 'host' / 'two' / 'evil-01234567.pth')
    with loopback_server(tmp_path / 'host') as address:
        assert equal(CheckpointLoader.load_checkpoint(f'{address}/one/model.safetensors', 'cpu'))
        with pytest.raises(CheckpointError, match='would run code'):
            CheckpointLoader.load_checkpoint(f'{address}/two/evil-01234567.pth', 'cpu')
    assert equal(CheckpointLoader.load_checkpoint(f'{address}/one/model.safetensors', 'cpu'))  # the server is gone
    names = {path.name for path in (tmp_path / 'hub' / 'checkpoints').iterdir()}
    assert names == {f'{re.sub("[/:]+", "--", address[7:])}--one--model.safetensors', 'evil-01234567.pth'}
    assert not (tmp_path / 'hacked').exists()


def test_torchvision_is_read_safely(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    (tmp_path / 'host').mkdir()
    torch.save({'x': Evil(os.mkdir, str(tmp_path / 'hacked'))}, tmp_path / 'host' / 'resnet50-01234567.pth')
    with loopback_server(tmp_path / 'host') as address:
        urls = {'resnet50': f'{address}/resnet50-01234567.pth'}
        monkeypatch.setattr('mmdet_detr.checkpoints.files.get_torchvision_models', lambda: urls)
        with pytest.raises(CheckpointError, match='would run code'):
            CheckpointLoader.load_checkpoint('torchvision://resnet50', 'cpu')
    assert not (tmp_path / 'hacked').exists()


def test_torchvision_names_without_torchvision(monkeypatch):
    """The backbones of our configs come from the addresses that torchvision itself names."""

    def missing() -> None:
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setattr('mmdet_detr.checkpoints.files.get_torchvision_models', missing)
    monkeypatch.setattr('mmdet_detr.checkpoints.files.load_from_http', lambda address, _: {'address': address})
    files = {18: 'f37072fd', 34: 'b627a593', 50: '0676ba61', 101: '63fe2227'}
    for depth, hashed in files.items():
        loaded = CheckpointLoader.load_checkpoint(f'torchvision://resnet{depth}', 'cpu')
        assert loaded == {'address': f'https://download.pytorch.org/models/resnet{depth}-{hashed}.pth'}
    with pytest.raises(CheckpointNotFoundError, match='no weights torchvision://resnet7'):
        CheckpointLoader.load_checkpoint('torchvision://resnet7', 'cpu')
