"""The stand-in for panopticapi: what mmdet uses of it, and where mmdet looks for it."""

import importlib.util
import math
import pickle

import numpy as np
import pytest

from mmdet_detr.compat.missing_panopticapi import IMPORTERS, OFFSET, VOID, PQStat, id2rgb, rgb2id

without_package = pytest.mark.skipif(
    getattr(importlib.util.find_spec('panopticapi'), 'origin', None) is not None, reason='panopticapi is installed here'
)
CATEGORIES = {1: {'isthing': 1}, 2: {'isthing': 1}, 5: {'isthing': 0}, 9: {'isthing': 0}}


def make_stat(**counts) -> PQStat:
    """Counts (iou, tp, fp, fn) by 'c' and category id."""
    stat = PQStat()
    for name, values in counts.items():
        entry = stat[int(name[1:])]
        entry.iou, entry.tp, entry.fp, entry.fn = values
    return stat


def test_ids_are_base_256_with_red_lowest():
    colours = np.array([[[0, 0, 0], [7, 0, 0]], [[1, 2, 3], [255, 255, 255]]], dtype=np.uint8)
    ids = rgb2id(colours)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[0, 7], [1 + 2 * 256 + 3 * 65536, 2**24 - 1]]
    back = id2rgb(ids.astype(np.int64))
    assert back.dtype == np.uint8
    assert (back == colours).all()
    assert (rgb2id([1, 2, 3]), id2rgb(197121)) == (197121, [1, 2, 3])
    assert (OFFSET, VOID) == (2**24, 0)


def test_quality_of_a_case_by_hand():
    """Class 1: PQ = 1.4 / (2 + 1/2 + 2/2) = 0.4. Class 2: only missed. Class 5: PQ = SQ = 0.9. Class 9: nothing."""
    stat = make_stat(c1=(1.4, 2, 1, 2), c2=(0.0, 0, 0, 1), c5=(0.9, 1, 0, 0))
    average, each = stat.pq_average(CATEGORIES, isthing=None)
    assert each[1] == pytest.approx({'pq': 0.4, 'sq': 0.7, 'rq': 4 / 7})
    assert each[5] == pytest.approx({'pq': 0.9, 'sq': 0.9, 'rq': 1.0})
    assert each[2] == each[9] == {'pq': 0, 'sq': 0, 'rq': 0}
    assert average == pytest.approx({'pq': 1.3 / 3, 'sq': 1.6 / 3, 'rq': (4 / 7 + 1) / 3, 'n': 3})
    things, of_things = stat.pq_average(CATEGORIES, isthing=True)
    assert things == pytest.approx({'pq': 0.2, 'sq': 0.35, 'rq': 2 / 7, 'n': 2})
    assert set(of_things) == {1, 2}
    assert stat.pq_average(CATEGORIES, isthing=False)[0] == pytest.approx({'pq': 0.9, 'sq': 0.9, 'rq': 1.0, 'n': 1})


def test_a_kind_without_a_class_is_nan():
    average, each = make_stat(c1=(1.0, 1, 0, 0)).pq_average(CATEGORIES, isthing=False)
    assert average['n'] == 0
    assert all(math.isnan(average[name]) for name in ('pq', 'sq', 'rq'))
    assert set(each) == {5, 9}
    assert math.isnan(PQStat().pq_average({}, isthing=None)[0]['pq'])


def test_counts_are_summed_and_pickled():
    total = PQStat()
    total += pickle.loads(pickle.dumps(make_stat(c1=(0.6, 1, 2, 3))))
    total += make_stat(c1=(0.7, 1, 0, 1), c5=(0.0, 0, 1, 0))
    assert (total[1].iou, total[1].tp, total[1].fp, total[1].fn) == (pytest.approx(1.3), 2, 2, 4)
    assert (total[5].tp, total[5].fp, total[5].fn) == (0, 1, 0)
    assert (total[2].tp, total[2].fp, total[2].fn) == (0, 0, 0)


@without_package
def test_mmdet_finds_it_in_every_place():
    from mmdet.apis import det_inferencer
    from mmdet.datasets.transforms import LoadPanopticAnnotations
    from mmdet.evaluation import CocoPanopticMetric
    from mmdet.evaluation.functional import panoptic_utils

    assert panoptic_utils.PQStat is PQStat
    assert (det_inferencer.VOID, det_inferencer.id2rgb) == (0, id2rgb)
    assert CocoPanopticMetric().tmp_dir is not None
    assert LoadPanopticAnnotations().rgb2id is rgb2id


@without_package
def test_mmdet_finds_it_if_it_was_imported_before(run_python):
    """With compiled operators, mmengine and mmdet's scripts import mmdet before this package."""
    code = (
        'import sys, mmdet_detr\n'
        'for name in [name for name in sys.modules if name.startswith("panopticapi")]: del sys.modules[name]\n'
        'from mmdet_detr.compat.missing_panopticapi import IMPORTERS, PQStat, stand_in_for_panopticapi\n'
        'for name in IMPORTERS:\n'
        '    sys.modules[name] = module = type(sys)(name)\n'
        '    module.VOID = module.PQStat = module.panopticapi = None\n'
        'stand_in_for_panopticapi()\n'
        'import panopticapi\n'
        'for name in IMPORTERS:\n'
        '    module = sys.modules[name]\n'
        '    assert (module.VOID, module.PQStat, module.panopticapi) == (0, PQStat, panopticapi)\n'
        '    assert not hasattr(module, "rgb2id")\n'
    )
    done = run_python('-c', code)
    assert done.returncode == 0, done.stderr


def test_the_real_package_stays_itself(run_python, tmp_path):
    (tmp_path / 'panopticapi').mkdir()
    (tmp_path / 'panopticapi' / '__init__.py').write_text('REAL = True')
    (tmp_path / 'panopticapi' / 'utils.py').write_text('rgb2id = id2rgb = "real"')
    (tmp_path / 'panopticapi' / 'evaluation.py').write_text('OFFSET = VOID = PQStat = "real"')
    code = (
        'import sys; sys.path.insert(0, ".")\n'
        'import mmdet_detr, panopticapi\n'
        'from mmdet.evaluation.functional import panoptic_utils\n'
        'assert panopticapi.REAL and panoptic_utils.PQStat == "real"\n'
    )
    done = run_python('-c', code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_names_of_the_importers_are_modules_of_mmdet():
    assert all(importlib.util.find_spec(name) for name in IMPORTERS)
