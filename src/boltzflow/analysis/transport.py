"""Wasserstein distances of two sets of samples: of numbers, of torsions, and of anything with a matrix of costs.

W2(p, q)² is the least mean squared distance over which samples of p can be moved to become samples of q. The plain distance of two sets of
the same density is not 0: it is the floor, and it falls slowly with the number of samples. Distances are printed as they are seen, as in
the tables of the field, with their floor; the interval is that of the distance of the densities, and holds 0 where there is no difference.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis import distances, tails
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.distances import Distance
from boltzflow.analysis.estimate import as_column
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError

MOST = 1_000
"""Samples of each set that an exact transport takes: it costs their square in memory, and more in time."""

_REPLICAS = 200
_HALVES = 6


def on_line(
    values: Any,
    reference: Any,
    *,
    log_w: Any = None,
    grouping: Correlation | None = None,
    seed: int = 0,
    replicas: int = _REPLICAS,
) -> Distance:
    """W2 of numbers, such as energies, by their quantiles.

    Args:
        values: (n,) values of the samples.
        reference: (m,) values of the reference frames, in the order of their chains.
        log_w: log-weights of the samples; None weighs all alike.
        grouping: what the reference frames are worth (`correlation.of_series`); None: they are independent.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.

    Returns:
        The plain distance, the interval of that of the densities, and the floor: what two independent sets of reference frames of these
        sizes are apart.

    Raises:
        DataError: if values are not finite where a sample has weight, or there are none.
    """
    own, weights, note = _weighed(as_column(values, "values"), log_w)
    other = as_column(reference, "reference values")
    if not np.isfinite(other).all():
        raise DataError("reference values must be finite numbers.")
    size = min(own.size, other.size)
    grid = (np.arange(max(own.size, other.size)) + 0.5) / max(own.size, other.size)
    equal = np.full(other.size, 1.0 / other.size)
    found, truth = _quantiles(own, weights, grid), _quantiles(other, equal, grid)
    difference = found - truth
    seen = _root_mean_square(difference)
    # The noise that two sets of reference frames have, as many as there are samples and frames.
    chains = _noise(other, equal, grid, seed, replicas, grouping)
    alike = _noise(other, equal, grid, seed + 1, replicas, None) * math.sqrt(other.size / own.size)
    floor = float(np.mean(_root_mean_square(chains - alike)))
    if note or size < 2:
        return Distance(seen, 0.0, math.inf, size, distances.NONE, note or "one sample is too few", seen=seen, floor=floor)
    noise = _noise(own, weights, grid, seed + 2, replicas, None) - chains
    # The difference that is seen has noise in it, which hides how much the noise is along the true one. At worst it is all along it.
    worst = np.linalg.svd(noise, full_matrices=False)[2][0] * math.sqrt(grid.size)
    worst *= seen * (1.0 if worst @ difference >= 0.0 else -1.0)
    result = distances.joined(
        [
            distances.inverted(lambda step: step * seen, lambda step, shape=shape: _root_mean_square(step * shape + noise), seen, size)
            for shape in (difference, worst)
        ]
    )
    return Distance(seen, result.low, max(result.high, seen), size, seen=seen, floor=floor)


def _weighed(values: Float[np.ndarray, " n"], log_w: Any) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], str]:
    """The values that have weight, their weights, and why their tail bears no interval."""
    weights = np.full(values.size, 1.0 / values.size) if log_w is None else normalized(log_w)
    if weights.size != values.size:
        raise DataError(f"there are {weights.size} log-weights for {values.size} values; pass one per sample.")
    kept = weights > 0.0
    if not np.isfinite(values[kept]).all():
        raise DataError("values must be finite where a sample has weight.")
    tail = tails.Tail(tails.EQUAL, values.size) if log_w is None else tails.fit(weights / weights.max())
    return values[kept], weights[kept], "" if tail.bounded_moments else tail.reason()


def _quantiles(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], grid: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
    order = np.argsort(values, kind="stable")
    return values[order][_ranks(weights[order][None], grid)[0]]


def _ranks(weights: Float[np.ndarray, "R n"], grid: Float[np.ndarray, " g"]) -> Int[np.ndarray, "R g"]:
    """Which of sorted samples holds each quantile, for rows of weights."""
    cumulative = np.cumsum(weights, axis=1)
    cumulative /= cumulative[:, -1:]
    return np.stack([np.minimum(np.searchsorted(row, grid, side="left"), row.size - 1) for row in cumulative])


def _noise(
    values: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    grid: Float[np.ndarray, " g"],
    seed: int,
    replicas: int,
    grouping: Correlation | None,
) -> Float[np.ndarray, "R g"]:
    """Quantiles of bootstrap replicas less those of the values."""
    order = np.argsort(values, kind="stable")
    sorted_values, sorted_weights = values[order], weights[order]
    own = sorted_values[_ranks(sorted_weights[None], grid)[0]]
    n, blocks = values.size, None if grouping is None else grouping.blocks
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(replicas):
        if blocks is None:
            counts = rng.multinomial(n, np.full(n, 1.0 / n)).astype(np.float64)
        else:
            counts = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks)).astype(np.float64)[np.arange(n) * blocks // n][order]
        drawn.append(sorted_values[_ranks((sorted_weights * counts)[None], grid)[0]] - own)
    return np.stack(drawn) * (1.0 if grouping is None else grouping.widening)


def _root_mean_square(difference: Float[np.ndarray, "*batch g"]) -> Any:
    return np.sqrt(np.mean(np.square(difference), axis=-1))


def exact(
    costs: Callable[[Int[np.ndarray, " a"], Int[np.ndarray, " b"]], Float[np.ndarray, "a b"]],
    costs_of_reference: Callable[[Int[np.ndarray, " a"], Int[np.ndarray, " b"]], Float[np.ndarray, "a b"]],
    n: int,
    m: int,
    *,
    log_w: Any = None,
    seed: int = 0,
    most: int = MOST,
) -> Distance:
    """W2 by exact optimal transport of at most `most` samples and reference frames.

    Args:
        costs: squared distances between some samples and some frames.
        costs_of_reference: between some frames and some other frames.
        n: number of samples.
        m: number of reference frames.
        log_w: log-weights of the samples, by which they are drawn systematically; None weighs all alike.
        seed: which of them are taken.
        most: the most that are taken of each.

    Returns:
        The plain distance of the sets that were taken, the floor between sets of frames of that size, and an interval of the distance of
        the densities: the plain one is above it on average, and below it by the triangle inequality no more than the floor.

    Raises:
        DataError: if there are too few samples or frames.
    """
    size = min(n, m // 2, most)
    if size < 4:
        raise DataError(f"an exact transport needs some samples and twice as many frames, but there are {n} and {m}.")
    note = "" if log_w is None else _tail_note(log_w)
    rng = np.random.default_rng(seed)
    pool = rng.permutation(n) if log_w is None else rng.permutation(_systematic(normalized(log_w), min(n, most), rng))
    frames = rng.permutation(m)
    own, first, second = pool[:size], frames[:size], frames[size : 2 * size]
    seen = _transported(costs(own, first))
    half = size // 2
    rounds = [(rng.permutation(size), rng.permutation(size)) for _ in range(_HALVES)]
    halves = [_transported(costs(own[a[:half]], first[b[:half]])) for a, b in rounds]
    floors = [_transported(costs_of_reference(first, second))]
    small = [_transported(costs_of_reference(first[a[:half]], second[b[:half]])) for a, b in rounds]
    # The spread of sets of this size, from that of halves; halves of one set are less apart than independent ones.
    spread, spread_of_floor = (float(np.std(part, ddof=1)) for part in (halves, small))
    floor = floors[0]
    low = seen - (floor + 2.0 * spread_of_floor) - 2.0 * spread
    if note:
        return Distance(seen, 0.0, math.inf, size, distances.NONE, note, seen=seen, floor=floor)
    return Distance(seen, max(0.0, low), seen + 2.0 * spread, size, seen=seen, floor=floor)


def _tail_note(log_w: Any) -> str:
    weights = normalized(log_w)
    tail = tails.fit(weights / weights.max())
    return "" if tail.bounded_moments else tail.reason()


def _systematic(weights: Float[np.ndarray, " n"], count: int, rng: np.random.Generator) -> Int[np.ndarray, " c"]:
    """Indices drawn with the weights, with one random number for all (Kitagawa, 1996)."""
    cumulative = np.cumsum(weights)
    return np.minimum(np.searchsorted(cumulative, (rng.random() + np.arange(count)) / count * cumulative[-1]), weights.size - 1)


def _transported(costs: Float[np.ndarray, "a b"]) -> float:
    """W2 of two equally weighted sets, exactly (POT's network simplex)."""
    import warnings

    with warnings.catch_warnings():
        # POT's docstrings have escapes that newer Pythons warn of when they compile them.
        warnings.simplefilter("ignore")
        import ot
    a, b = costs.shape
    least: Any = ot.emd2(np.full(a, 1.0 / a), np.full(b, 1.0 / b), np.ascontiguousarray(costs, np.float64), numItermax=2_000_000)
    return math.sqrt(max(0.0, float(least)))


def on_torus(angles: Any, reference: Any, *, log_w: Any = None, seed: int = 0, most: int = MOST) -> Distance:
    """W2 of torsions on the flat torus, in radians (T-W2): the distance of two angles is the shorter way around.

    Args:
        angles: (n, k) torsions of the samples, in radians.
        reference: (m, k) those of the reference frames.
        log_w: log-weights of the samples; None weighs all alike.
        seed: which samples and frames are taken.
        most: the most that are taken of each.

    Raises:
        DataError: if the shapes do not fit, or see `exact`.
    """

    def apart(a: Float[np.ndarray, "a k"], b: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "a b"]:
        total = np.zeros((len(a), len(b)))
        for column in range(a.shape[1]):
            turn = np.abs(a[:, None, column] - b[None, :, column]) % (2.0 * np.pi)
            total += np.minimum(turn, 2.0 * np.pi - turn) ** 2
        return total

    return _of_points(angles, reference, apart, log_w=log_w, seed=seed, most=most)


def in_space(points: Any, reference: Any, *, log_w: Any = None, seed: int = 0, most: int = MOST) -> Distance:
    """W2 of points (n, k) and (m, k), such as the first coordinates of a TICA model; arguments and errors as for `on_torus`."""

    def apart(a: Float[np.ndarray, "a k"], b: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "a b"]:
        return np.sum((a[:, None] - b[None]) ** 2, axis=-1)

    return _of_points(points, reference, apart, log_w=log_w, seed=seed, most=most)


def _of_points(
    own: Any, other: Any, apart: Callable[[Float[np.ndarray, "a k"], Float[np.ndarray, "b k"]], Float[np.ndarray, "a b"]], **options: Any
) -> Distance:
    """`exact` of two sets of points, `apart` by their squared distances."""
    own, other = np.asarray(own, np.float64), np.asarray(other, np.float64)
    if own.ndim != 2 or other.ndim != 2 or own.shape[1] != other.shape[1]:
        raise DataError(f"two sets of points must have shapes (n, k) and (m, k), but have {own.shape} and {other.shape}.")
    return exact(lambda a, b: apart(own[a], other[b]), lambda a, b: apart(other[a], other[b]), len(own), len(other), **options)
