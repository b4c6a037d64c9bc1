from matplotlib.figure import Figure

from mmdet_detr.reports.speed import draw, grouped


def row(detector: str, mode: str, batch: int, **more) -> dict:
    stages = {'model': [0.2, 0.1, 0.3]} if mode == 'infer' else {'forward': [0.2, 0.1, 0.3], 'loss': [0.1, 0.1, 0.1]}
    shared = {'detector': detector, 'dtype': 'float32', 'size': [64, 96], 'batch': batch, 'mode': mode}
    return {**shared, 'stages': stages, 'images_a_second': [5.0, 4.0, 6.0], **more}


def test_rows_are_grouped_in_order():
    rows = [row('a', 'infer', 1), row('a', 'train', 1), row('b', 'infer', 1), row('a', 'infer', 2)]
    assert grouped(rows) == {
        (64, 96, 1, 'infer'): [rows[0], rows[2]],
        (64, 96, 1, 'train'): [rows[1]],
        (64, 96, 2, 'infer'): [rows[3]],
    }


def test_draws_what_was_measured(tmp_path):
    plain = {'rows': [row('a', 'infer', 1), row('a', 'train', 1)]}
    assert draw(plain, tmp_path) == [tmp_path / 'stages.png']
    full = {'rows': [row('a', 'infer', 1, memory_mib=70.0), row('b', 'infer', 1)], 'ap': {'a': {'AP': 0.4}}}
    paths = draw(full, tmp_path)
    assert [path.name for path in paths] == ['stages.png', 'memory.png', 'speed.png']
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in paths)
    assert len(draw({'rows': [row('a', 'train', 1)], 'ap': {'a': {'AP': 0.4}}}, tmp_path)) == 1


def test_bars_have_numbers_and_no_panel_is_empty(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: figures.append(figure))
    rows = [row('a', 'train', 1, memory_mib=70.0), row('a', 'infer', 1), row('b', 'train', 1)]
    draw({'rows': rows}, tmp_path)
    stages, memory = figures
    texts = [{text.get_text() for text in axis.texts} for axis in stages.axes]
    assert texts == [{'200', '100', '300'}, {'200'}]  # forward, loss and their sum; the model alone
    assert [axis.get_title() for axis in memory.axes] == ['Training, 64 x 96, batch 1']
    assert [text.get_text() for text in memory.axes[0].texts] == ['70']
    assert [label.get_text() for label in memory.axes[0].get_yticklabels()] == ['a']
