"""Matching of segments: cases by hand, and random maps against mmdet's own evaluation."""

import mmcv
import numpy as np
import pytest
from mmdet.evaluation.functional import pq_compute_single_core

from mmdet_detr.compat.missing_panopticapi import PQStat, id2rgb
from mmdet_detr.evaluation.panoptic_quality import Segment, match_segments


def row(text: str) -> np.ndarray:
    """A map of one line of pixels; a digit is an id."""
    return np.array([[int(digit) for digit in text]])


def counts(stat: PQStat, label: int) -> tuple[float, int, int, int]:
    entry = stat[label]
    return round(entry.iou, 6), entry.tp, entry.fp, entry.fn


A, B, CROWD_A = Segment(0), Segment(1), Segment(0, is_crowd=True)


@pytest.mark.parametrize(
    ('truth', 'true', 'prediction', 'predicted', 'of_a', 'of_b'),
    [
        ('1122', {1: A, 2: B}, '7788', {7: A, 8: B}, (1.0, 1, 0, 0), (1.0, 1, 0, 0)),
        # an IoU of exactly one half is no match, 3/5 is one
        ('1111', {1: A}, '1122', {1: A, 2: B}, (0, 0, 1, 1), (0, 0, 1, 0)),
        ('11112', {1: A, 2: B}, '11122', {1: A, 2: B}, (0.75, 1, 0, 0), (0, 0, 1, 1)),
        # the same place under another label is a false positive and a miss
        ('1111', {1: A}, '1111', {1: B}, (0, 0, 0, 1), (0, 0, 1, 0)),
        # VOID of the truth does not count in the union: 2 / (2 + 4 - 2 - 2), and not 2 / 4
        ('1100', {1: A}, '1111', {1: A}, (1.0, 1, 0, 0), (0, 0, 0, 0)),
        # ids that nothing describes are VOID in both
        ('1199', {1: A}, '1111', {1: A}, (1.0, 1, 0, 0), (0, 0, 0, 0)),
        ('1111', {1: A}, '1119', {1: A}, (0.75, 1, 0, 0), (0, 0, 0, 0)),
        # more than half VOID is no false positive, half is one
        ('0001', {1: B}, '2221', {2: A, 1: B}, (0, 0, 0, 0), (1.0, 1, 0, 0)),
        ('000111', {1: B}, '222211', {2: A, 1: B}, (0, 0, 0, 0), (2 / 3, 1, 0, 0)),
        ('001111', {1: B}, '222211', {2: A, 1: B}, (0, 0, 1, 0), (0, 0, 1, 1)),
        # a crowd is not missed, and takes what lies on it for its own class only; two regions of it act as one
        ('1111', {1: CROWD_A}, '0000', {}, (0, 0, 0, 0), (0, 0, 0, 0)),
        ('1111', {1: CROWD_A}, '1122', {1: A, 2: B}, (0, 0, 0, 0), (0, 0, 1, 0)),
        ('1122', {1: CROWD_A, 2: CROWD_A}, '1111', {1: A}, (0, 0, 0, 0), (0, 0, 0, 0)),
        # VOID and crowd add up
        ('0013', {1: CROWD_A, 3: B}, '1111', {1: A}, (0, 0, 0, 0), (0, 0, 0, 1)),
        # nothing found, nothing there, segments without a pixel
        ('1122', {1: A, 2: B}, '0000', {}, (0, 0, 0, 1), (0, 0, 0, 1)),
        ('0000', {}, '1122', {1: A, 2: B}, (0, 0, 0, 0), (0, 0, 0, 0)),
        ('1111', {1: A, 5: B}, '1111', {1: A, 6: B}, (1.0, 1, 0, 0), (0, 0, 0, 1)),
        ('1111', {1: B, 5: CROWD_A}, '1111', {1: B, 6: A}, (0, 0, 0, 0), (1.0, 1, 0, 0)),
    ],
)
def test_by_hand(truth, true, prediction, predicted, of_a, of_b):
    stat = match_segments(row(truth), true, row(prediction), predicted)
    assert counts(stat, 0) == pytest.approx(of_a, abs=1e-6)
    assert counts(stat, 1) == pytest.approx(of_b, abs=1e-6)


def test_sizes_have_to_be_equal():
    with pytest.raises(ValueError, match=r'prediction has \(1, 3\) pixels \(height, width\), the truth \(1, 2\)'):
        match_segments(row('11'), {1: A}, row('111'), {1: A})


def test_equals_mmdets_evaluation_on_random_maps(tmp_path):
    rng = np.random.default_rng(0)
    ours, theirs = PQStat(), PQStat()
    for number in range(60):
        truth = np.kron(rng.integers(0, 7, (4, 5)), np.ones((3, 3), dtype=int))
        changed = rng.random(truth.shape) < rng.choice([0.05, 0.3])
        prediction = np.where(changed, rng.integers(0, 7, truth.shape), truth)
        labels = rng.integers(0, 3, 7)
        crowd = [int(i == 6) for i in range(7)]  # mmdet knows one region of a crowd in a class
        paths, infos, segments = [], [], []
        for name, ids, others in (
            ('truth', truth, labels),
            ('prediction', prediction, np.roll(labels, number % 5 == 0)),
        ):
            paths.append(f'{name}{number}.png')
            mmcv.imwrite(id2rgb(ids)[..., ::-1], str(tmp_path / paths[-1]))
            present = [i for i in range(1, 7) if (ids == i).any()]
            infos.append(
                [
                    {'id': i, 'category_id': int(others[i]), 'area': int((ids == i).sum()), 'iscrowd': crowd[i]}
                    for i in present
                ]
            )
            segments.append({i: Segment(int(others[i]), bool(crowd[i])) for i in present})
        pair = [
            {'image_id': 1, 'file_name': path, 'segments_info': info} for path, info in zip(paths, infos, strict=True)
        ]
        theirs += pq_compute_single_core(0, [tuple(pair)], str(tmp_path), str(tmp_path), {0: {}, 1: {}, 2: {}})
        ours += match_segments(truth, segments[0], prediction, segments[1])
    for label in range(3):
        assert ours[label].iou == pytest.approx(theirs[label].iou)
        assert counts(ours, label)[1:] == counts(theirs, label)[1:]
        assert min(counts(ours, label)[1:]) > 5
