"""Configurations laid on one another over rotations, reflections and permutations of particles of a class.

Assignment (Jonker and Volgenant) and rotation (Kabsch) in turn, each of which can only lower what is left of the distance. Host code in
Numba whose kernels hold no GIL.
"""

import concurrent.futures
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from boltzflow.errors import DataError
from boltzflow.geometry import alignment, assignment
from boltzflow.geometry._numba import kernel

# Half turns and mirror images of the principal axes.
_HALF_TURNS = {2: [[1, 1], [-1, -1]], 3: [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]}
_MIRRORS = {2: [[1, -1], [-1, 1]], 3: [[-1, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]}
# Rounds of assignment and rotation at most; they settle in three or four.
_ROUNDS = 12


def starts(dimension: int, *, mirrored: bool) -> Float[np.ndarray, "s D"]:
    """Signs with which principal axes are laid on principal axes: all proper ones, and the others if mirror images may be.

    Args:
        dimension: 2 or 3.
        mirrored: whether mirror images are among them.
    """
    return np.array(_HALF_TURNS[dimension] + (_MIRRORS[dimension] if mirrored else []), np.float64)


def runs_of_classes(classes: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " c"]]:
    """An order of the particles in which each class is one run, as the kernels want them, and where the runs begin (and N)."""
    order = np.argsort(classes, kind="stable")
    return order, np.concatenate([[0], np.flatnonzero(np.diff(classes[order])) + 1, [len(classes)]]).astype(np.int64)


def fixed_point(fixed: Float[np.ndarray, "A N D"], moving: Float[np.ndarray, "B N D"]) -> tuple[float, int]:
    """Scale and bits of the integer costs of `match` (`assignment.fixed_point`)."""
    farthest = [float(np.sqrt(np.square(x).sum(axis=2).max())) for x in (fixed, moving)]
    return assignment.fixed_point(farthest[0] * farthest[1], fixed.shape[1])


@kernel
def match(fixed, moving, turn, bounds, scale, bits, cost, column, work):
    """Assigns particles of `moving`, turned by `turn`, to those of `fixed` within each class; leaves the permutation in `column`.

    Args:
        fixed: (N, D) float64, D = 2 or 3, each class in one run of particles.
        moving: (N, D) likewise.
        turn: (D, D).
        bounds: where each class begins, and N.
        scale: of `fixed_point`.
        bits: of `fixed_point`.
        cost: (N, N) int64 work space.
        column: (N,) int64, the particle of `moving` for each of `fixed`.
        work: (assignment.WORK_ROWS, N) int64 work space.
    """
    dimension = fixed.shape[1]
    for c in range(bounds.shape[0] - 1):
        low = bounds[c]
        n = bounds[c + 1] - low
        if n == 1:
            column[low] = low
            continue
        for j in range(n):
            if dimension == 3:
                m0 = moving[low + j, 0]
                m1 = moving[low + j, 1]
                m2 = moving[low + j, 2]
                x = turn[0, 0] * m0 + turn[0, 1] * m1 + turn[0, 2] * m2
                y = turn[1, 0] * m0 + turn[1, 1] * m1 + turn[1, 2] * m2
                z = turn[2, 0] * m0 + turn[2, 1] * m1 + turn[2, 2] * m2
                for i in range(n):
                    overlap = fixed[low + i, 0] * x + fixed[low + i, 1] * y + fixed[low + i, 2] * z
                    cost[i, j] = np.int64(-scale * overlap) << bits
            else:
                m0 = moving[low + j, 0]
                m1 = moving[low + j, 1]
                x = turn[0, 0] * m0 + turn[0, 1] * m1
                y = turn[1, 0] * m0 + turn[1, 1] * m1
                for i in range(n):
                    cost[i, j] = np.int64(-scale * (fixed[low + i, 0] * x + fixed[low + i, 1] * y)) << bits
        assignment.solve(cost, n, bits, work)
        for i in range(n):
            column[low + i] = low + work[0, i]


@kernel
def cross(fixed, moving, column, s):
    """Writes s = sum_i b_i a_i^T over the assigned particles a_i of `fixed` and b_i of `moving`.

    Args:
        fixed: (N, D) float64.
        moving: (N, D) float64.
        column: (N,) which particle of `moving` belongs to each of `fixed`.
        s: (D, D) float64.
    """
    n, dimension = fixed.shape
    for k in range(dimension):
        for m in range(dimension):
            total = 0.0
            for i in range(n):
                total += moving[column[i], k] * fixed[i, m]
            s[k, m] = total


@kernel
def _least_rows(first, second, axes, other_axes, bounds, scale, bits, reflections, signs, rounds, begin, end, out):
    """Writes the least squared distances of rows begin..end of `first` from all of `second` that are found from some starts."""
    n, dimension = first.shape[1], first.shape[2]
    cost = np.empty((n, n), np.int64)
    column = np.empty(n, np.int64)
    best_column = np.empty(n, np.int64)
    work = np.empty((assignment.WORK_ROWS, n), np.int64)
    s = np.empty((dimension, dimension))
    turn = np.empty((dimension, dimension))
    jacobi = np.empty((8, 4))
    for a in range(begin, end):
        for b in range(second.shape[0]):
            best = -np.inf
            for start in range(signs.shape[0]):
                for i in range(dimension):
                    for j in range(dimension):
                        turn[i, j] = 0.0
                        for k in range(dimension):
                            turn[i, j] += axes[a, i, k] * signs[start, k] * other_axes[b, j, k]
                match(first[a], second[b], turn, bounds, scale, bits, cost, column, work)
                cross(first[a], second[b], column, s)
                value = alignment.overlap(s, dimension, reflections)
                if value > best:
                    best = value
                    best_column[:] = column
            for _ in range(rounds):
                cross(first[a], second[b], best_column, s)
                alignment.rotation(s, dimension, reflections, turn, jacobi)
                match(first[a], second[b], turn, bounds, scale, bits, cost, column, work)
                settled = True
                for i in range(n):
                    settled = settled and column[i] == best_column[i]
                if settled:
                    break
                best_column[:] = column
            cross(first[a], second[b], best_column, s)
            alignment.rotation(s, dimension, reflections, turn, jacobi)
            # What is left, term by term: a difference of large numbers would not vanish for a copy.
            left = 0.0
            for i in range(n):
                for k in range(dimension):
                    x = first[a, i, k]
                    for m in range(dimension):
                        x -= turn[k, m] * second[b, best_column[i], m]
                    left += x * x
            out[a, b] = left


@kernel
def _axes(x, out):
    work = np.empty((8, 4))
    for a in range(x.shape[0]):
        alignment.principal_axes(x[a], out[a], work)


def in_chunks(rows: Callable[[int, int], None], n: int, threads: int) -> None:
    """Calls `rows(begin, end)` over 0..n, in this thread or in several; the kernels hold no GIL.

    Args:
        rows: does the work of a range of rows.
        n: number of rows.
        threads: threads to use.
    """
    threads = min(threads, n)
    if threads <= 1:
        rows(0, n)
        return
    # More chunks than threads, so that a thread that loses its core to another process does not hold up the rest.
    edges = np.linspace(0, n, 4 * threads + 1).astype(int)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(rows, int(low), int(high)) for low, high in zip(edges[:-1], edges[1:], strict=True) if high > low]:
            future.result()


def least_squares(
    first: Float[np.ndarray, "A N D"],
    second: Float[np.ndarray, "B N D"],
    *,
    classes: Int[np.ndarray, " N"],
    reflections: bool,
    threads: int = 1,
) -> Float[np.ndarray, "A B"]:
    """Squared distances of all pairs of configurations, least over rotations about the origin and permutations within the classes.

    Each pair starts with principal axes on principal axes, in every combination of their signs, and goes on from the best with assignment
    and rotation in turn until nothing changes. What is found is the distance of an alignment, never less than the least: none for
    copies, the least for nine of ten pairs of four particles, and for all pairs together within a few per cent.

    Args:
        first: centred configurations, D = 2 or 3.
        second: likewise.
        classes: number of each particle's interchangeability class.
        reflections: whether a configuration may be mirrored.
        threads: threads to use.

    Returns:
        Sums over the particles, in the square of the unit of length.

    Raises:
        DataError: if the shapes do not fit, D is neither 2 nor 3, or positions are not finite.
    """
    first, second, classes = np.asarray(first, np.float64), np.asarray(second, np.float64), np.asarray(classes)
    if first.ndim != 3 or second.ndim != 3 or first.shape[1:] != second.shape[1:] or first.shape[2] not in (2, 3) or 0 in first.shape:
        raise DataError(f"Alignment needs shapes (A, N, D) and (B, N, D), D = 2 or 3, but they are {first.shape} and {second.shape}.")
    if classes.shape != first.shape[1:2]:
        raise DataError(f"There are {first.shape[1]} particles but classes of shape {classes.shape}; give one class number per particle.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("Alignment needs finite positions, but some are NaN or infinite; leave these configurations out.")
    order, bounds = runs_of_classes(classes)
    first, second = (np.ascontiguousarray((x - x.mean(axis=1, keepdims=True))[:, order]) for x in (first, second))
    scale, bits = fixed_point(first, second)
    axes = [np.empty((len(x), x.shape[2], x.shape[2])) for x in (first, second)]
    for x, out in zip((first, second), axes, strict=True):
        _axes(x, out)
    signs, found = starts(first.shape[2], mirrored=reflections), np.empty((len(first), len(second)))
    in_chunks(
        lambda low, high: _least_rows(first, second, *axes, bounds, scale, bits, reflections, signs, _ROUNDS, low, high, found),
        len(first),
        threads,
    )
    return found
