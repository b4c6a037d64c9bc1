import itertools

import numpy as np
import pytest
import torch
from helpers import reference_matches
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy.optimize import linear_sum_assignment

from mmdet_detr.models.matching import assignment
from mmdet_detr.models.matching.assignment import make_finite, solve

NOT_FINITE = [float('nan'), float('inf'), -float('inf')]


@pytest.fixture(autouse=True)
def device_solver(monkeypatch):
    """Use torch-linear-assignment, or SciPy behind the same interface if it is not installed."""
    if assignment.batch_linear_assignment is None:
        monkeypatch.setattr(assignment, 'batch_linear_assignment', batch_linear_assignment)


def batch_linear_assignment(cost: torch.Tensor) -> torch.Tensor:
    """The task of each worker (N, workers), or -1, for costs (N, workers, tasks)."""
    assigned = torch.full(cost.shape[:2], -1)
    for problem, of_problem in zip(assigned, cost, strict=True):
        workers, tasks = linear_sum_assignment(of_problem.numpy())
        problem[workers] = torch.from_numpy(tasks)
    return assigned


def pairs_of(solution, problem: int, num_queries: int, num_targets: int, batch_size: int) -> list[tuple[int, int]]:
    """(query, object) pairs of one layer and image, from the flattened indices of a solution."""
    pairs = zip(solution.queries.tolist(), solution.targets.tolist(), strict=True)
    mine = [(q, t) for q, t in pairs if q // num_queries == problem]
    assert all(t // num_targets == problem % batch_size for _, t in mine)
    return sorted((q % num_queries, t % num_targets) for q, t in mine)


sizes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 4), st.integers(1, 5))
# The few fixed values make ties and span the range of float32.
values = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0**-100, 2.0**100, -(2.0**100)]),
    st.floats(-10, 10, width=32),
    st.sampled_from(NOT_FINITE),
)
problems = sizes.flatmap(lambda shape: st.tuples(st_numpy.arrays(np.float32, shape, elements=values), st.data()))


@settings(deadline=None, max_examples=300)
@given(problems)
def test_as_few_bad_pairs_and_as_cheap_as_any_matching(problem):
    """Brute force is the reference, for any sizes, zero objects, ties, huge and tiny values, and NaN anywhere."""
    cost, data = problem
    num_layers, batch_size, num_targets, num_queries = cost.shape
    valid = data.draw(st_numpy.arrays(bool, (batch_size, num_targets)))
    solution = solve(torch.from_numpy(cost.copy()), torch.from_numpy(valid))
    assert np.array_equal(solution.valid, valid)
    assert np.array_equal(solution.non_finite, (~np.isfinite(cost) & valid[..., None]).any(2).sum(2))
    assert len(solution.queries) == num_layers * np.minimum(valid.sum(1), num_queries).sum()
    for index in range(num_layers * batch_size):
        layer, image = divmod(index, batch_size)
        of_image = np.flatnonzero(valid[image])
        pairs = pairs_of(solution, index, num_queries, num_targets, batch_size)
        assert len({q for q, _ in pairs}) == len({t for _, t in pairs}) == len(pairs)
        assert {t for _, t in pairs} <= set(of_image)
        got = badness(cost[layer, image], [(t, q) for q, t in pairs])
        here = cost[layer, image][of_image].astype(np.float64)
        # Brute force compares the number of pairs that are not finite first, and the sum of the others second.
        best = min((badness(here, candidate) for candidate in all_matchings(*here.shape)), default=(0, 0.0))
        assert got[0] == best[0]
        assert got[1] == pytest.approx(best[1], rel=1e-6, abs=1e-6 * np.abs(here[np.isfinite(here)]).max(initial=0))


def badness(cost: np.ndarray, pairs: list[tuple[int, int]]) -> tuple[int, float]:
    chosen = np.array([cost[pair] for pair in pairs], dtype=np.float64)
    finite = np.isfinite(chosen)
    return int((~finite).sum()), float(chosen[finite].sum())


def all_matchings(num_targets: int, num_queries: int) -> list[list[tuple[int, int]]]:
    if num_targets <= num_queries:
        return [list(enumerate(chosen)) for chosen in itertools.permutations(range(num_queries), num_targets)]
    return [
        [(t, q) for q, t in enumerate(chosen)] for chosen in itertools.permutations(range(num_targets), num_queries)
    ]


@pytest.mark.parametrize('on_device', [False, True], ids=['host', 'device'])
@pytest.mark.parametrize('levels', [3, 1000])  # with many ties, and with few
def test_equals_scipy_bit_for_bit(on_device, levels):
    """The official matcher calls SciPy with the (query, object) matrix as well."""
    cost = torch.randint(levels, (2, 3, 7, 12)) / 8
    valid = torch.arange(7) < torch.tensor([[7], [0], [4]])
    solution = solve(cost.clone(), valid, on_device=on_device)
    for problem, of_problem in enumerate(cost.flatten(0, 1).numpy()):
        count = int(valid[problem % 3].sum())
        expected = list(zip(*map(np.ndarray.tolist, linear_sum_assignment(of_problem[:count].T)), strict=True))
        assert pairs_of(solution, problem, 12, 7, 3) == expected


@pytest.mark.parametrize('num_targets', [4, 5, 6])
def test_ties_as_scipy_breaks_them(num_targets):
    cost = torch.randint(3, (20, 1, num_targets, 5)).float()
    solution = solve(cost.clone(), torch.ones(1, num_targets, dtype=torch.bool))
    for problem in range(20):
        expected = zip(*map(np.ndarray.tolist, linear_sum_assignment(cost[problem, 0].T.numpy())), strict=True)
        assert pairs_of(solution, problem, 5, num_targets, 1) == sorted(expected)


@pytest.mark.parametrize('on_device', [False, True], ids=['host', 'device'])
def test_not_finite_on_both_solvers(on_device):
    cost = torch.rand(1, 2, 3, 5)
    cost[0, 0, :, :2] = float('nan')
    cost[0, 1, 1] = float('inf')
    valid = torch.tensor([[True] * 3, [True, False, True]])
    solution = solve(cost, valid, on_device=on_device)
    assert {q for q, _ in pairs_of(solution, 0, 5, 3, 2)} == {2, 3, 4}
    assert {t for _, t in pairs_of(solution, 1, 5, 3, 2)} == {0, 2}
    assert solution.non_finite[0, 0] == 2


@pytest.mark.parametrize('shape', [(1, 1, 3, 5), (2, 3, 7, 12), (1, 2, 12, 7), (2, 1, 0, 5)])
def test_threads_change_nothing(monkeypatch, shape):
    cost, valid = torch.rand(shape), torch.rand(shape[1:3]) < 0.8
    expected = solve(cost.clone(), valid)
    monkeypatch.setattr(assignment, 'PAIRS_FOR_THREADS', 0)
    monkeypatch.setattr(assignment, 'MAX_THREADS', 3)
    for got, alone in zip(solve(cost, valid), expected, strict=True):
        assert np.array_equal(got, alone)


def test_make_finite_keeps_what_is_finite():
    cost = torch.tensor([[[1.0, float('nan')], [-3.0, 2.0]]])
    finite, count = make_finite(cost)
    assert count.tolist() == [1]
    assert finite[0, 0, 0] == 1
    assert finite[0, 1].tolist() == [-3, 2]
    assert finite[0, 0, 1] > 2 * (3 + 3)  # any two pairs of finite costs from -3 to 3 are cheaper
    assert make_finite(torch.full((1, 1, 1), torch.nan))[0] > 0


def test_brute_force_agrees_with_the_plain_reference():
    """The two references of these tests check each other."""
    cost = torch.rand(4, 3).double().numpy()
    least = sum(cost[pair] for pair in reference_matches(cost))
    assert least == pytest.approx(min(badness(cost, pairs)[1] for pairs in all_matchings(4, 3)))
