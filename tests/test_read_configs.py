import pytest
from mmengine.config import ConfigDict

from mmdet_detr.configs import dicts_in, load_config
from mmdet_detr.errors import ConfigError


def test_dicts_come_in_the_order_of_the_text():
    config = ConfigDict(name=0, a={'name': 1, 'b': [{'name': 2}, ({'name': 3}, 'text')]}, c={'name': 4})
    assert [part['name'] for part in dicts_in(config)] == [0, 1, 2, 3, 4]
    assert list(dicts_in(None)) == list(dicts_in('text')) == []


def test_a_dict_in_itself_and_one_in_two_places_come_once():
    shared = {'name': 'shared'}
    config = {'name': 'outer', 'a': [shared, shared]}
    config['b'] = config
    assert [part['name'] for part in dicts_in(config)] == ['outer', 'shared']


def test_the_walk_goes_on_with_what_a_caller_has_changed():
    config = {'drop': {'name': 1}, 'keep': {'name': 2}}
    names = []
    for part in dicts_in(config):
        part.pop('drop', None)
        names.append(part.get('name'))
    assert names == [None, 2]


def test_deep_nesting_is_no_error():
    node: list = []
    for _ in range(100_000):
        node = [node]
    assert list(dicts_in(node)) == []


def test_load_config(tmp_path):
    path = tmp_path / 'config.py'
    with pytest.raises(ConfigError, match=r'^no such file: .*config\.py$'):
        load_config(path)
    path.write_text("model = dict(type='X', depth=50)")
    assert load_config(path, {'model.depth': 18}).model == {'type': 'X', 'depth': 18}
    path.write_text('raise RuntimeError("two\\nlines")')
    with pytest.raises(ConfigError, match=r'config\.py cannot be read: RuntimeError: two lines$'):
        load_config(path)
