import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmdet.visualization.palette import get_palette

from mmdet_detr.datasets.palette import complete_palette

THREE = [(220, 20, 60), (0, 130, 200), (255, 190, 0)]


@pytest.mark.parametrize(('count', 'least'), [(4, 200), (8, 100), (20, 60), (80, 15), (300, 1)])
def test_colours_differ(count, least):
    palette = complete_palette([], count)
    assert len(palette) == len(set(palette)) == count
    colours = np.array(palette, dtype=float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1000 * np.eye(count)
    assert distances.min() >= least
    assert colours.min() >= 0
    assert colours.max() <= 255


def test_given_colours_stay():
    assert complete_palette(THREE, 3) == complete_palette(THREE, 2) == THREE
    assert complete_palette([list(colour) for colour in THREE], 5)[:3] == THREE
    assert complete_palette(THREE, 5) == complete_palette(THREE, 5)


@pytest.mark.parametrize(('given', 'first'), [({'palette': THREE}, THREE), ({}, [(220, 20, 60)])])
def test_a_data_set_has_a_colour_for_every_class(shapes, given, first):
    classes = ('circle', 'square', 'triangle', 'star')
    dataset = DATASETS.build(
        {
            'type': 'mmdet_detr.RobustCocoDataset',
            'ann_file': f'{shapes}/annotations/instances_val.json',
            'metainfo': {'classes': classes, **given},
            'lazy_init': True,
        }
    )
    palette = get_palette(dataset.metainfo['palette'], 4)
    assert palette[: len(first)] == first
    assert len(set(palette)) == 4
