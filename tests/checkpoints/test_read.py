import argparse
import json
import os
import pickle

import numpy as np
import pytest
import torch
from helpers import loopback_server
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from mmdet_detr.checkpoints import CheckpointError
from mmdet_detr.checkpoints.read import _Unpickler, load_from_local, source_of

WEIGHTS = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.ones(2)}


def equal(read: dict) -> bool:
    weights = read['state_dict']
    return weights.keys() == WEIGHTS.keys() and all(torch.equal(weights[name], v) for name, v in WEIGHTS.items())


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
        {'state_dict': WEIGHTS, 'step': torch.tensor(5)},
        {'model': WEIGHTS, 'args': argparse.Namespace(dilation=True, nheads=8)},
    ],
    ids=lambda content: ' '.join(content),
)
def test_forms_of_files(content, zipped, tmp_path):
    path = str(tmp_path / 'file.pth')
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = CheckpointLoader.load_checkpoint(path, 'cpu')
    assert equal(read)
    assert source_of(read).path == path
    if 'args' in content:
        assert (source_of(read).dilated, source_of(read).num_heads) == (True, 8)


def test_entries_that_are_no_weights_are_told(tmp_path):
    torch.save({'model': WEIGHTS, 'optimizer': {}, 'epoch': 3}, tmp_path / 'file.pth')
    read = load_from_local(str(tmp_path / 'file.pth'))
    assert source_of(read).dropped == dict.fromkeys(('optimizer', 'epoch'), 'no weights of the network')
    assert read['epoch'] == 3


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
    source = source_of(read)
    assert (source.classes, source.num_heads, source.dilated) == (('a', 'b'), 4, False)
    assert read['meta']['dataset_meta'] == {'classes': ('a', 'b')}  # where mmdet's inference looks


def history_checkpoint() -> dict:
    history = HistoryBuffer()
    history.update(1.5)
    history.update(2.5)
    return {
        'state_dict': WEIGHTS,
        'meta': {'dataset_meta': {'classes': ('a', 'b')}},
        'message_hub': {'log_scalars': {'loss': history}, 'eta': np.float64(3), 'iter': np.int64(4)},
    }


def test_log_history_of_a_training_checkpoint(tmp_path):
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
def test_code_is_refused(key, zipped, tmp_path):
    content = {'state_dict': WEIGHTS, 'meta': {}}
    content[key] = {**content[key], 'x': Evil(os.mkdir, str(tmp_path / 'hacked'))}
    torch.save(content, tmp_path / 'file.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r'file.pth is refused: it would run code \(\w+\.mkdir\) when read'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'), 'cpu')
    assert not (tmp_path / 'hacked').exists()


def test_getattr_reaches_nothing_but_the_log_history(tmp_path):
    """mmengine's log history needs getattr for its own methods; nothing else may be got by it."""
    for owner, name in ((HistoryBuffer, '__init__'), (np.ndarray, 'min'), (HistoryBuffer, '__subclasses__')):
        torch.save({'state_dict': WEIGHTS, 'x': Evil(getattr, owner, name)}, tmp_path / 'file.pth')
        with pytest.raises(CheckpointError, match='is refused: it would run code'):
            load_from_local(str(tmp_path / 'file.pth'))


def test_unpickler_of_older_releases(tmp_path):
    """Used where torch's own takes no further types; the same rules."""
    path = tmp_path / 'plain.pkl'
    with path.open('wb') as file:
        pickle.dump({'hub': history_checkpoint()['message_hub'], 'args': argparse.Namespace(a=1)}, file, protocol=2)
    with path.open('rb') as file:
        read = _Unpickler(file).load()
    assert read['hub']['log_scalars']['loss'].mean() == 2
    assert read['args'].a == 1
    for evil in (Evil(os.mkdir, str(tmp_path / 'hacked')), Evil(eval, '1'), Evil(getattr, np.ndarray, 'min')):
        path.write_bytes(pickle.dumps(evil, protocol=2))
        with path.open('rb') as file, pytest.raises(pickle.UnpicklingError, match='GLOBAL'):
            _Unpickler(file).load()
    assert not (tmp_path / 'hacked').exists()


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


BAD_FILES = [
    ('is empty', lambda path: path.touch()),
    ('is no checkpoint, or is damaged', truncated),
    ('is no checkpoint, or is damaged: Error', truncated_safetensors),
    ('is no checkpoint, or is damaged', lambda path: path.write_bytes(bytes(range(256)) * 4)),
    ('is no checkpoint, or is damaged', lambda path: path.write_text('<html>404 Not Found</html>')),
    ('is a folder without model.safetensors or pytorch_model.bin', lambda path: path.mkdir()),
    ('config.json is no JSON', folder_with_bad_config),
    ('holds no weights, only epoch, optimizer', lambda path: torch.save({'epoch': 1, 'optimizer': {'lr': 1}}, path)),
    ('holds no weights, only nothing', lambda path: torch.save({}, path)),
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
    with pytest.raises(FileNotFoundError, match=f'no such file: {tmp_path}/none.pth'):
        load_from_local(str(tmp_path / 'none.pth'))


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
    assert names == {'one--model.safetensors', 'evil-01234567.pth'}
    assert not (tmp_path / 'hacked').exists()
