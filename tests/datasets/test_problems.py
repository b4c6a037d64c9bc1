import pickle

import pytest
from helpers import ROOT

from mmdet_detr.datasets.problems import Kind, Problem, summary
from mmdet_detr.reports.data import kinds_table


def test_the_page_has_all_kinds():
    """docs/data.md says how to make the table anew."""
    page = (ROOT / 'docs' / 'data.md').read_text()
    table = kinds_table()
    assert table.count('\n') == 2 + len(Kind)
    assert f'\n\n{table}\n' in page


@pytest.mark.parametrize(
    ('problem', 'text', 'fatal'),
    [
        (Problem(Kind.NO_BOX, 'bbox 3', 'annotations', 7, 'a'), "annotations[7], image 'a': no box: bbox 3", True),
        (Problem(Kind.NO_BOXES, 'none', 'train.json'), 'train.json: no boxes: none', True),
        (Problem(Kind.NO_AREA, 'area 0', 'annotations', 0, 0), 'annotations[0], image 0: no area: area 0', False),
        (Problem(Kind.DUPLICATE_ANNOTATION_ID, '1'), ': duplicate annotation id: 1', False),
        (Problem(Kind.DUPLICATE_ANNOTATION_ID, '1', evaluated=True), ': duplicate annotation id: 1', True),
    ],
)
def test_one_problem(problem, text, fatal):
    assert (str(problem), problem.fatal) == (text, fatal)
    where, kind, reason = text.split(': ')
    assert problem.as_json() == {'kind': kind, 'where': where, 'reason': reason, 'fatal': fatal}
    assert pickle.loads(pickle.dumps(problem)) == problem


def test_summary_starts_with_the_most_frequent():
    problems = [Problem(Kind.NO_BOX, ''), Problem(Kind.NO_AREA, ''), Problem(Kind.NO_AREA, '')]
    assert summary(problems) == '2 x no area, 1 x no box'
