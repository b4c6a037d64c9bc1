import numpy as np
import pytest
from matplotlib.font_manager import findfont, get_font

from mmdet_detr.evaluation.pictures import draw_class_curves, draw_confusion, draw_precision_recall
from mmdet_detr.visualization import fonts
from mmdet_detr.visualization.legend import draw_legend

OTHER = 'STIXGeneral'  # matplotlib brings it along, too


@pytest.fixture
def rare(monkeypatch):
    """A letter that only the second font has."""
    monkeypatch.setattr(fonts, '_families', lambda: (fonts.DEFAULT, OTHER))
    default, other = (get_font(findfont(name)).get_charmap() for name in (fonts.DEFAULT, OTHER))
    return chr(min(set(other) - set(default)))


def test_a_fallback_is_taken_for_letters_that_the_default_lacks(rare):
    assert fonts.font_file(['cat', 'é']) == findfont(fonts.DEFAULT)
    assert fonts.font_file(['cat', rare]) == findfont(OTHER)
    assert fonts.font(20, [rare]).getname()[0] == OTHER
    unknown = draw_legend([(None, chr(0x10FFFD))], 40)
    assert draw_legend([(None, rare)], 40).shape != unknown.shape or (draw_legend([(None, rare)], 40) != unknown).any()


def test_missing_letters(rare):
    assert fonts.missing_letters(['cat 1', rare]) == ''
    assert fonts.missing_letters(['b' + chr(0x10FFFD), chr(0x10FFFC) + ' ' + rare]) == chr(0x10FFFC) + chr(0x10FFFD)


@pytest.mark.parametrize('name', ['a$_$b', '_back', 'x$^$'])
def test_names_are_no_formulas(tmp_path, name):
    names = [name, 'other']
    precision = np.linspace(1, 0, 10 * 101 * 2).reshape(10, 101, 2)
    draw_precision_recall(precision, names, tmp_path / 'curves.png')
    draw_class_curves(precision, names, tmp_path / 'classes.png')
    draw_confusion(np.eye(3, dtype=int), names, 0.5, 0.5, tmp_path / 'confusion.png')
    assert len(list(tmp_path.iterdir())) == 3
