"""Solve the assignment problems of a batch, with one copy to the host and one back."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .targets import upload

try:
    from torch_linear_assignment import batch_linear_assignment
except ImportError:  # The extra gpu-solver is not installed.
    batch_linear_assignment = None

PAIRS_FOR_THREADS = 2**16  # Handing fewer to a thread takes longer than solving them (measured on two cores).
MAX_THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1)

_NOTHING = np.empty(0, dtype=np.int64)


class Solution(NamedTuple):
    """M pairs of each layer, layer by layer, and what the host knows from the same copy."""

    queries: Tensor  # (L*M,) int64 into (L*B*Q,)
    targets: Tensor  # (L*M,) int64 into (B*T,)
    valid: np.ndarray  # (B, T) bool
    non_finite: np.ndarray  # (L, B) number of queries with a cost that was not finite


def solve(cost: Tensor, valid: Tensor, on_device: bool = False) -> Solution:
    """Pair queries and objects at the least cost.

    Costs that are not finite count as more than all others. Of more objects than queries, those that cost least are
    paired.

    Args:
        cost: (L, B, T, Q); may be changed in place.
        valid: (B, T) bool, the objects to pair.
        on_device: solve on the device of the costs, with torch-linear-assignment and for T <= Q; else SciPy solves.
    """
    return (_solve_on_device if on_device else _solve_on_host)(cost, valid)


def _solve_on_host(cost: Tensor, valid: Tensor) -> Solution:
    num_layers, batch_size, num_targets, num_queries = cost.shape
    # One copy to the host instead of two: objects that are not valid are marked by a cost of -inf, which no real pair
    # has.
    cost.nan_to_num_(nan=torch.nan, posinf=torch.inf, neginf=torch.inf)
    on_host = cost.masked_fill_(~valid[..., None], -torch.inf).flatten(0, 1).cpu()
    costs = on_host.numpy()
    known = costs[:batch_size, :, 0] != -np.inf
    non_finite = np.zeros(len(costs), dtype=np.int64)
    if costs.size and not costs.max() < np.inf:  # NaN or infinite; the maximum costs next to nothing
        finite, replaced = make_finite(on_host.masked_fill(on_host == -torch.inf, 0))
        costs, non_finite = finite.numpy(), replaced.numpy()
    objects = [np.flatnonzero(of_image) for of_image in known]
    solved = _in_threads([of_problem[objects[problem % batch_size]] for problem, of_problem in enumerate(costs)])
    query = np.concatenate([_NOTHING, *(query for query, _ in solved)])
    target = np.concatenate([_NOTHING, *(objects[i % batch_size][target] for i, (_, target) in enumerate(solved))])
    problem = np.repeat(np.arange(len(costs)), [len(query) for query, _ in solved])
    queries, targets = upload(
        np.stack((query + problem * num_queries, target + problem % batch_size * num_targets)), cost.device
    )
    return Solution(queries, targets, known, non_finite.reshape(num_layers, batch_size))


def _in_threads(problems: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Solve on several cores if there is enough to do; SciPy releases Python's lock."""
    shares = min(MAX_THREADS, len(problems))
    if shares < 2 or sum(problem.size for problem in problems) < PAIRS_FOR_THREADS:
        return _one_by_one(problems)
    waiting = [_threads().submit(_one_by_one, problems[share::shares]) for share in range(1, shares)]
    solved: list = [None] * len(problems)
    solved[::shares] = _one_by_one(problems[::shares])
    for share, future in enumerate(waiting, start=1):
        solved[share::shares] = future.result()
    return solved


def _one_by_one(problems: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [least_cost_pairs(problem) for problem in problems]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix='assignment')


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # A forked process has no threads.


def _solve_on_device(cost: Tensor, valid: Tensor) -> Solution:
    num_layers, batch_size, num_targets, num_queries = cost.shape
    # An object that is not valid costs nothing with any query, so that it takes one that the others leave.
    costs, non_finite = make_finite(cost.masked_fill(~valid[..., None], 0).flatten(0, 1))
    chosen = batch_linear_assignment(costs).flatten()  # (L*B*T,), queries
    flat = torch.cat((valid.flatten(), non_finite)).cpu().numpy()
    known, non_finite_on_host = flat[: valid.numel()].astype(bool), flat[valid.numel() :]
    real = np.flatnonzero(np.tile(known, num_layers))  # into (L*B*T,)
    real_on_device, first_query, targets = upload(
        np.stack((real, real // num_targets * num_queries, real % valid.numel())), cost.device
    )
    queries = chosen[real_on_device] + first_query
    return Solution(queries, targets, known.reshape(valid.shape), non_finite_on_host.reshape(num_layers, batch_size))


def least_cost_pairs(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries and objects of the pairing that costs least, at finite costs (T, Q).

    SciPy transposes so that the shorter side comes first, and (T, Q) needs no transposing. A square goes in as (Q, T),
    as in other implementations, so that ties are broken alike.
    """
    if cost.shape[0] == cost.shape[1]:
        return linear_sum_assignment(cost.T)
    objects, queries = linear_sum_assignment(cost)
    return queries, objects


def make_finite(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Replace NaN and infinities by a cost so high that a pairing takes them only if it must.

    Args:
        costs: (N, T, Q), not empty.

    Returns:
        The costs in float64, and the number of queries (N,) with a cost that was replaced.
    """
    finite = costs.isfinite()
    costs = costs.double().masked_fill_(~finite, 0)
    # Two pairings of finite costs differ by less than this. A larger number would take precision from the sums.
    too_much = 2 * costs.abs().amax((1, 2), keepdim=True) * (1 + min(costs.shape[1:]))
    too_much += too_much == 0
    return torch.where(finite, costs, too_much), (~finite).any(1).sum(1)
