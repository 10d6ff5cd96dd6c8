"""Exact linear assignment: many small problems or one large one.

The algorithm is that of Jonker and Volgenant, Computing 38, 325 (1987): column reduction, reduction transfer, augmenting row
reduction, then shortest augmenting paths for the rows that are still free. It works on integers: sums are exact, so that ties cannot
make it cycle, and a column's number rides in the low bits of its cost, so that one minimum finds both (and uses vector instructions).
"""

import math

import numpy as np
from jaxtyping import Float, Int

from boltzflow.errors import DataError
from boltzflow.geometry._numba import kernel

# Rows of the work space of `solve`.
WORK_ROWS = 8
# Larger than any distance; added to a column's distances it keeps the column out of a minimum and out of the updates.
_FAR = 1 << 61
_BLOCK = 1 << 62


def fixed_point(largest: float, n: int) -> tuple[float, int]:
    """How costs are made integers for `solve`: `int(cost * scale) << bits`.

    Args:
        largest: bound of the absolute costs.
        n: rows of the largest problem.

    Returns:
        The scale, a power of two (so that integer costs stay exact), and the number of low bits that hold a column's number. The
        rounding is at most `largest` · 2^-48 for 16 rows and 2^-36 for 1024.
    """
    bits = max(1, (n - 1).bit_length())
    exponent = math.frexp(largest)[1] if largest > 0.0 else 0
    return math.ldexp(1.0, min(1000, 57 - 2 * bits - exponent)), bits


@kernel
def solve(cost, n, bits, work):
    """Solves one problem; the column assigned to row i is left in `work[0, i]`.

    Args:
        cost: (>=n, >=n) int64 multiples of 2^bits, at most 2^(57 - bits) in size; only the leading n×n block is read. With that bound
            prices and distances stay below 2^60.
        n: number of rows and columns, at most 2^bits.
        bits: low bits of the costs, which are zero.
        work: (WORK_ROWS, >=n) int64 work space.
    """
    column_of = work[0]
    if n == 1:
        column_of[0] = 0
        return
    row_of, predecessor, done, free = work[1], work[2], work[3], work[4]
    price, reach, settled = work[5], work[6], work[7]
    mask = (1 << bits) - 1
    # Column reduction: each column goes to its cheapest row, if that row has no column yet. Row by row, as memory lies.
    row = cost[0]
    for j in range(n):
        price[j] = row[j]
    for i in range(1, n):
        row = cost[i]
        for j in range(n):
            price[j] = min(price[j], row[j] + i)
    for i in range(n):
        column_of[i] = -1
        predecessor[i] = 0  # here: how many columns want row i
    for j in range(n - 1, -1, -1):
        i = price[j] & mask
        price[j] -= i + j  # from here on `row[j] - price[j]` is a reduced cost plus j
        predecessor[i] += 1
        if column_of[i] < 0:
            column_of[i] = j
            row_of[j] = i
        else:
            row_of[j] = -1
    # Reduction transfer: lower the price of a column that is the only one of its row until a second column is as good for that row.
    n_free = 0
    for i in range(n):
        if column_of[i] < 0:
            free[n_free] = i
            n_free += 1
        elif predecessor[i] == 1:
            row = cost[i]
            taken = column_of[i]
            price[taken] -= _BLOCK
            best = _FAR
            for j in range(n):
                best = min(best, row[j] - price[j])
            price[taken] += _BLOCK - (best - (best & mask))
    # Augmenting row reduction: a free row takes its best column and lowers the price to the level of its second best; the row that it
    # displaces is next. More than n such steps cost more than the shortest paths that they save.
    budget = n
    n_waiting = n_free
    n_free = 0
    k = 0
    while k < n_waiting:
        i = free[k]
        k += 1
        row = cost[i]
        best = _FAR
        for j in range(n):
            best = min(best, row[j] - price[j])
        first = best & mask
        price[first] -= _BLOCK
        second_best = _FAR
        for j in range(n):
            second_best = min(second_best, row[j] - price[j])
        price[first] += _BLOCK
        second = second_best & mask
        gap = (second_best - second) - (best - first)
        if gap > 0:
            price[first] -= gap
        elif row_of[first] >= 0:
            first = second
        displaced = row_of[first]
        column_of[i] = first
        row_of[first] = i
        if displaced >= 0:
            column_of[displaced] = -1
            budget -= 1
            if gap > 0 and budget > 0:
                k -= 1
                free[k] = displaced
            else:
                free[n_free] = displaced
                n_free += 1
    # Shortest augmenting path (Dijkstra on reduced costs) from each row that is still free.
    for f in range(n_free):
        start = free[f]
        row = cost[start]
        best = _FAR
        for j in range(n):
            d = row[j] - price[j]
            reach[j] = d
            predecessor[j] = start
            best = min(best, d)
        n_done = 0
        while True:
            end = best & mask
            minimum = best - end
            i = row_of[end]
            if i < 0:
                break
            done[n_done] = end
            n_done += 1
            settled[end] = minimum
            row = cost[i]
            offset = row[end] - price[end] - best
            price[end] -= _BLOCK
            reach[end] = _FAR
            best = _FAR
            for j in range(n):  # without branches, so that it is vectorised
                d = row[j] - price[j] - offset
                shorter = d < reach[j]
                d = d if shorter else reach[j]
                reach[j] = d
                predecessor[j] = i if shorter else predecessor[j]
                best = min(best, d)
        for k in range(n_done):
            j = done[k]
            price[j] += _BLOCK + settled[j] - minimum
        while True:
            i = predecessor[end]
            row_of[end] = i
            end, column_of[i] = column_of[i], end
            if i == start:
                break


@kernel
def _solve_batch(costs, scale, bits, out):
    n = costs.shape[1]
    work = np.empty((WORK_ROWS, n), np.int64)
    cost = np.empty((n, n), np.int64)
    for b in range(costs.shape[0]):
        for i in range(n):
            for j in range(n):
                cost[i, j] = np.int64(costs[b, i, j] * scale) << bits
        solve(cost, n, bits, work)
        for i in range(n):
            out[b, i] = work[0, i]


def assign_batch(costs: Float[np.ndarray, "B n n"]) -> Int[np.ndarray, "B n"]:
    """Solves B assignment problems exactly, without the GIL.

    Args:
        costs: finite costs; row i of problem b pays `costs[b, i, j]` for column j. They are rounded as `fixed_point` says.

    Returns:
        For each problem the permutation p that minimises the sum of `costs[b, i, p[i]]`.

    Raises:
        DataError: the matrices are not square or not finite.
    """
    costs = np.ascontiguousarray(costs, np.float64)
    if costs.ndim != 3 or costs.shape[1] != costs.shape[2]:
        raise DataError(f"An assignment needs square cost matrices, but the costs have the shape {costs.shape}; pass (B, n, n).")
    out = np.empty(costs.shape[:2], np.int64)
    if costs.size == 0:
        return out
    largest = max(float(costs.max()), -float(costs.min()))
    if not math.isfinite(largest):
        raise DataError("An assignment needs finite costs, but some are NaN or infinite; remove the frames that cause them.")
    _solve_batch(costs, *fixed_point(largest, costs.shape[1]), out)
    return out


def assign(cost: Float[np.ndarray, "n n"]) -> Int[np.ndarray, " n"]:
    """Solves one assignment problem exactly, without the GIL; see `assign_batch`."""
    return assign_batch(np.asarray(cost)[None])[0]
