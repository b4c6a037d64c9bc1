import numpy as np

from mmdet_detr.visualization.legend import draw_legend

RED, BLUE = (200, 0, 0), (0, 0, 200)


def rows_of(panel: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.unique(np.nonzero((panel == colour).all(-1))[0])


def columns_of(panel: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.unique(np.nonzero((panel == colour).all(-1))[1])


def test_colours_stand_in_order_beside_dark_texts():
    panel = draw_legend([(RED, 'person (3)'), (BLUE, 'sky')], height=300)
    assert (panel.shape[0], panel.dtype) == (300, np.uint8)
    assert rows_of(panel, RED).max() < rows_of(panel, BLUE).min()
    assert len(rows_of(panel, RED)) == 9  # the text of 300 / 28 = 10.7 pixels without the black frame
    texts = panel[:, columns_of(panel, RED).max() + 3 :]
    dark = (texts < 100).all(-1)
    assert dark[rows_of(panel, RED)].any()
    assert dark[rows_of(panel, BLUE)].any()
    assert not dark[:, -3:].any()  # the text ends within the panel
    assert not dark[rows_of(panel, BLUE).max() + 20 :].any()


def test_a_longer_text_makes_it_wider_and_a_higher_picture_makes_it_larger():
    short, long = (draw_legend([(RED, text)], height=100).shape[1] for text in ('cat', 'playing field'))
    assert long > short
    assert draw_legend([(RED, 'cat')], height=600).shape[1] > 1.5 * short
    assert draw_legend([(RED, 'cat')], height=5000).shape == (5000, *draw_legend([(RED, 'cat')], height=1000).shape[1:])


def test_what_does_not_fit_below_stands_in_another_column():
    entries = [((10 * i, 0, 0), f'class {i}') for i in range(1, 8)]
    panel = draw_legend(entries, height=64)  # four lines of 15 pixels
    columns = [columns_of(panel, colour).min() for colour, _ in entries]
    assert columns[:4] == [columns[0]] * 4
    assert columns[4] > columns[3]
    assert all((panel == colour).all(-1).any() for colour, _ in entries)


def test_text_alone_and_a_height_of_less_than_a_line():
    assert (draw_legend([(None, 'nothing found')], height=100) == 0).all(-1).any()
    assert draw_legend([(RED, 'cat')], height=3).shape[0] == 3
