import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from mmdet_detr.reports.data import BARS, draw


def report(name: str, objects: list[int], **boxes: int) -> SimpleNamespace:
    return SimpleNamespace(
        source=SimpleNamespace(name=name), objects=Counter(dict(enumerate(objects))), boxes=Counter(boxes)
    )


@pytest.fixture
def panels(monkeypatch):
    """Draws, and gives the axes."""

    def drawn(*reports: SimpleNamespace, queries: int = 10):
        figures: list[Figure] = []
        monkeypatch.setattr(Figure, 'savefig', lambda figure, *_, **__: figures.append(figure))
        draw(list(reports), queries, Path('data_check.png'))
        figures[0].draw_without_rendering()
        return figures[0].axes

    return drawn


def names(axis) -> list[str]:
    return [label.get_text() for label in axis.get_xticklabels()]


def test_classes_have_one_order_and_images_are_whole(panels):
    train, counted, val, other = panels(report('train', [1, 2, 2], cat=4, dog=1), report('val', [3], dog=2, gnu=1))
    assert names(counted) == names(other) == ['cat', 'dog', 'gnu']
    assert [text.get_text() for text in counted.texts] == ['4', '1', '0']
    assert [text.get_text() for text in other.texts] == ['0', '2', '1']
    assert train.get_title() == 'train: 3 images, 5 objects'
    for axis in (train, val, counted, other):
        assert all(tick == int(tick) for tick in axis.get_yticks())
    assert all(tick == int(tick) for tick in train.get_xticks())


def test_many_classes_stand_upright_and_apart(panels):
    classes = {f'a class number {number}': 100 - number for number in range(BARS + 5)}
    _, counted = panels(report('train', [1], **classes))
    assert len(names(counted)) == BARS
    assert counted.get_title().endswith(f'the {BARS} most frequent of {BARS + 5}')
    boxes = [label.get_window_extent() for label in counted.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    assert min(box.y0 for box in boxes) >= 0  # not clipped


def test_data_without_objects(panels):
    assert panels(report('train', []))[0].get_title() == 'train: 0 images, 0 objects'
