"""The assignment problems of a batch, solved: one copy to the host, one back."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .targets import upload

try:
    from torch_linear_assignment import batch_linear_assignment
except ImportError:  # optional
    batch_linear_assignment = None

_NOTHING = np.empty(0, dtype=np.int64)


class Solution(NamedTuple):
    """M pairs of each layer, layer by layer, and what the host learnt from the same copy."""

    queries: Tensor  # (L*M,) int64 into (L*B*Q,)
    targets: Tensor  # (L*M,) int64 into (B*T,)
    valid: np.ndarray  # (B, T) bool
    non_finite: np.ndarray  # (L, B) number of queries with a cost that was not finite


def solve(cost: Tensor, valid: Tensor, on_device: bool = False) -> Solution:
    """Pair queries and objects at the least cost.

    Costs that are not finite count as dearer than all others. Of more objects than queries, the cheapest are paired.

    Args:
        cost: (L, B, T, Q).
        valid: (B, T) bool, the objects to pair.
        on_device: solve where the costs are, with torch-linear-assignment and for T <= Q; else SciPy does.
    """
    return (_solve_on_device if on_device else _solve_on_host)(cost, valid)


def _solve_on_host(cost: Tensor, valid: Tensor) -> Solution:
    num_layers, batch_size, _, num_queries = cost.shape
    flat = torch.cat((valid.flatten().to(cost.dtype), cost.flatten())).cpu().numpy()
    known = flat[: valid.numel()].reshape(valid.shape).astype(bool)
    costs = flat[valid.numel() :].reshape(num_layers * batch_size, *cost.shape[2:])
    non_finite = np.zeros(len(costs), dtype=np.int64)
    with np.errstate(over='ignore', invalid='ignore'):
        if not np.isfinite(costs.sum()):  # nearly free, unlike a look at every cost
            costs, non_finite = (x.numpy() for x in make_finite(torch.from_numpy(costs)))
    objects = [np.flatnonzero(of_image) for of_image in known]
    queries, targets, sizes = [_NOTHING], [_NOTHING], []
    for problem, of_problem in enumerate(costs):
        of_image = objects[problem % batch_size]
        query, target = least_cost_pairs(of_problem[of_image])
        queries.append(query)
        targets.append(of_image[target])
        sizes.append(len(query))
    pairs = np.stack((np.concatenate(queries), np.concatenate(targets)))
    problems = np.repeat(np.arange(len(costs)), sizes)
    pairs += np.stack((problems * num_queries, problems % batch_size * valid.shape[1]))
    chosen, wanted = upload(pairs, cost.device)
    return Solution(chosen, wanted, known, non_finite.reshape(num_layers, batch_size))


def _solve_on_device(cost: Tensor, valid: Tensor) -> Solution:
    num_layers, batch_size, num_targets, num_queries = cost.shape
    # an object that is not valid costs nothing anywhere: it takes a query that is left
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
    """Queries and objects of the cheapest pairing at finite costs (T, Q).

    SciPy works along the shorter side, so this way round it need not transpose. A square it takes as it is: turned
    round, as all other implementations hand it over, ties are broken as theirs.
    """
    if cost.shape[0] == cost.shape[1]:
        return linear_sum_assignment(cost.T)
    objects, queries = linear_sum_assignment(cost)
    return queries, objects


def make_finite(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Replace NaN and infinities by a cost that no pairing takes if it can avoid it.

    Args:
        costs: (N, T, Q), not empty.

    Returns:
        The costs in float64, and the number of queries (N,) with a replaced one.
    """
    finite = costs.isfinite()
    costs = costs.double().masked_fill_(~finite, 0)
    # the finite costs of any other choice of pairs differ by less
    dearer = 1 + 2 * costs.abs().amax() * (1 + min(costs.shape[1:]))
    return torch.where(finite, costs, dearer), (~finite).any(1).sum(1)
