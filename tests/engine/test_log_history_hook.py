import json

import pytest
import torch
from helpers import shapes_config
from mmengine.runner import Runner
from runs import BY_ITERATION, SEEDED

from mmdet_detr.errors import ConfigError


def losses(work_dir) -> list[float]:
    lines = next(work_dir.rglob('scalars.json')).read_text().splitlines()
    return [entry['loss'] for entry in map(json.loads, lines) if 'loss' in entry]


def test_keeps_what_the_log_reads_at_least(shapes, tmp_path):
    hook = {'type': 'mmdet_detr.LogHistoryHook', 'max_length': 3}
    config = shapes_config(shapes, tmp_path, custom_hooks=[hook], **{'log_processor.window_size': 4})
    with pytest.raises(
        ConfigError, match=r'LogHistoryHook\(max_length=3\) keeps fewer values than log_processor\.window_size=4'
    ):
        Runner.from_cfg(config).train()


@pytest.mark.parametrize('resumed', [False, True])
def test_keeps_what_the_log_reads(shapes, whole, tmp_path, resumed):
    kept = {'log_processor.window_size': 3, 'default_hooks.checkpoint.max_keep_ckpts': 3}
    options = {**BY_ITERATION, **SEEDED, **kept}
    without = whole(options).work_dir
    more = {'custom_hooks': [*options['custom_hooks'], {'type': 'mmdet_detr.LogHistoryHook', 'max_length': 3}]}
    if resumed:  # from a run without the hook
        more |= {'resume': True, 'load_from': str(without / 'iter_8.pth')}
    short = Runner.from_cfg(shapes_config(shapes, tmp_path / 'short', **{**options, **more}))
    short.train()
    names = [name for name in short.message_hub.log_scalars if name.startswith('train/')]
    assert 'train/loss' in names
    for name in names:
        values, counts = short.message_hub.get_scalar(name).data
        assert len(values) == len(counts) <= 3
    hub = torch.load(without / 'iter_9.pth', weights_only=False)['message_hub']
    assert len(hub['log_scalars']['train/loss'].data[0]) == 9
    assert losses(tmp_path / 'short') == losses(without)[8 if resumed else 0 :]
