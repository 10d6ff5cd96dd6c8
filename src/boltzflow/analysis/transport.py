"""Wasserstein distances of two sets of samples: of numbers, of torsions, and of anything with a matrix of costs.

W2(p, q)² is the least mean squared distance over which samples of p can be moved to become samples of q. The plain distance of two sets of
the same density is not 0: it is the floor, and it falls slowly with the number of samples. Distances are printed as they are seen, as in
the tables of the field, with their floor; the interval is that of the distance of the densities, and holds 0 where there is no difference.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow import extras
from boltzflow.analysis import distances, tails
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.distances import Distance
from boltzflow.analysis.estimate import AT_LEAST, as_column
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError

MOST = 1_000
"""Samples of each set that an exact transport takes: it costs their square in memory, and more in time."""

_REPLICAS = 200
_HALVES = 8
# Of Student's t with as many halves; the scatter of few is not well known.
_SPREADS = 2.4
# Shape of the tail of numbers above which the bootstrap of their squares does not hold; that of squares of normal or exponential numbers is
# well below. And the quantiles that still tell of a distance then.
_HEAVIEST, _TRUSTED = 0.15, 0.98


def on_line(
    values: Any,
    reference: Any,
    *,
    log_w: Any = None,
    grouping: Correlation | None = None,
    own_grouping: Correlation | None = None,
    seed: int = 0,
    replicas: int = _REPLICAS,
) -> Distance:
    """W2 of numbers, such as energies, by their quantiles.

    Where the numbers themselves have a tail so heavy that their squares may have no mean, as energies of clashes do, the interval has a
    lower end alone: that of the distance over the lowest 98 % of both, which can only be less.

    Args:
        values: (n,) values of the samples.
        reference: (m,) values of the reference frames, in the order of their chains.
        log_w: log-weights of the samples; None weighs all alike.
        grouping: what the reference frames are worth (`correlation.of_series`); None: they are independent.
        own_grouping: what the samples are worth, likewise.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.

    Returns:
        The plain distance, the interval of that of the densities, and the floor: what two independent sets of reference frames of these
        sizes are apart.

    Raises:
        DataError: if values are not finite where a sample has weight, or there are none.
    """
    given = as_column(values, "values")
    own, weights, note = _weighed(given, log_w)
    other = as_column(reference, "reference values")
    if not np.isfinite(other).all():
        raise DataError("reference values must be finite numbers.")
    if own_grouping is not None and own.size < given.size:
        # Samples without weight are left out, and blocks are those of the samples that are there.
        own_grouping = Correlation(own.size, min(own_grouping.n_effective, own.size), own_grouping.blocks)
    size = min(own.size, other.size)
    grid = (np.arange(max(own.size, other.size)) + 0.5) / max(own.size, other.size)
    equal = np.full(other.size, 1.0 / other.size)
    difference = _quantiles(own, weights, grid) - _quantiles(other, equal, grid)
    seen = root_mean_square(difference)
    # The noise that two sets of reference frames have, as many as there are samples and frames.
    chains = _noise(other, equal, grid, seed, replicas, grouping)
    alike = _noise(other, equal, grid, seed + 1, replicas, None) * math.sqrt(other.size / own.size)
    floor = float(np.mean(root_mean_square(chains - alike)))
    if note or size < 2:
        return Distance(seen, 0.0, math.inf, size, distances.NONE, note or "one sample is too few", seen=seen, floor=floor)
    noise = _noise(own, weights, grid, seed + 2, replicas, own_grouping) - chains
    heavy = "" if log_w is not None else heavy_tail(own)
    if not heavy:
        return dataclasses.replace(interval(difference, noise, seen, size), floor=floor)
    trusted = round(_TRUSTED * grid.size)
    part = math.sqrt(trusted / grid.size)
    lower = interval(difference[:trusted] * part, noise[:, :trusted] * part, part * root_mean_square(difference[:trusted]), size)
    return Distance(seen, lower.low, math.inf, size, AT_LEAST, heavy, seen=seen, floor=floor)


def interval(difference: Float[np.ndarray, " g"], noise: Float[np.ndarray, "R g"], seen: float, n: int) -> Distance:
    """The distance with the interval that differences of quantiles have with their noise.

    Args:
        difference: of the quantiles that are seen.
        noise: of both sets, in replicas.
        seen: root mean square of the difference.
        n: number of samples of the smaller set.
    """
    if seen == 0.0:
        return Distance(0.0, 0.0, float(np.quantile(root_mean_square(noise), 0.975)), n, seen=0.0)
    # The difference that is seen has noise in it, which hides how much the noise is along the true one. At worst it is all along it.
    worst = np.linalg.eigh(noise @ noise.T)[1][:, -1] @ noise
    length = float(root_mean_square(worst))
    worst *= seen * (1.0 if worst @ difference >= 0.0 else -1.0) / (length if length > 0.0 else 1.0)
    result = distances.joined(
        [
            distances.inverted(lambda step: step * seen, lambda step, shape=shape: root_mean_square(step * shape + noise), seen, n)
            for shape in (difference, worst)
        ]
    )
    return Distance(seen, result.low, max(result.high, seen), n, seen=seen)


def heavy_tail(values: Float[np.ndarray, " n"]) -> str:
    """Why the squares of numbers bear no upper limit, in words; empty where they do."""
    away = np.abs(values - np.median(values))
    largest = float(away.max())
    if largest == 0.0 or values.size < 2 * tails.MIN_TAIL:
        return ""
    tail = tails.fit(away / largest)
    if tail.state == tails.HEAVY:
        return "so few samples are so far out that nothing is known about those that were not drawn"
    # Its standard error is about (1 + k) / sqrt(size).
    if tail.state != tails.FITTED or tail.k - 0.5 * (1.0 + tail.k) / math.sqrt(tail.size) <= _HEAVIEST:
        return ""
    return f"the tail is so heavy (shape {tail.k:.2g}) that squares have no mean, or none that samples tell"


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


def root_mean_square(difference: Float[np.ndarray, "*batch g"]) -> Any:
    """Over quantiles."""
    return np.sqrt(np.mean(np.square(difference), axis=-1))


def exact(
    costs: Callable[[Int[np.ndarray, " a"], Int[np.ndarray, " b"]], Float[np.ndarray, "a b"]],
    costs_of_reference: Callable[[Int[np.ndarray, " a"], Int[np.ndarray, " b"]], Float[np.ndarray, "a b"]],
    n: int,
    m: int,
    *,
    log_w: Any = None,
    grouping: Correlation | None = None,
    own_grouping: Correlation | None = None,
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
        grouping: what the reference frames are worth, in the order of their chains; None: they are independent. Correlated ones are
            divided into two sets by whole blocks.
        own_grouping: what the samples are worth, likewise.
        seed: which of them are taken.
        most: the most that are taken of each.

    Returns:
        The plain distance of the sets that were taken, the floor between sets of frames of that size, and an interval of the distance of
        the densities: the plain one is above it on average, and by the triangle inequality by not much more than what a set of frames, made
        as uneven and as correlated as the samples are, is from another one.

    Raises:
        DataError: if there are too few samples or frames.
    """
    rng = np.random.default_rng(seed)
    sides = _sides(m, grouping, rng)
    size = min(n, most, *(len(side) for side in sides))
    if size < 4:
        raise DataError(f"an exact transport needs some samples and twice as many frames, but there are {n} and {m}.")
    note = "" if log_w is None else _tail_note(log_w)
    # Before the samples, so that the same seed takes the same frames whatever the weights.
    first, second = (np.sort(rng.permutation(side)[:size]) for side in sides)
    own, shares = _drawn(n, log_w, size, rng)
    equal = np.full(size, 1.0 / size)
    apart, alike = costs(own, first), costs_of_reference(first, second)
    seen, floor = _transported(apart, shares, equal), _transported(alike, equal, equal)
    if note:
        return Distance(seen, 0.0, math.inf, size, distances.NONE, note, seen=seen, floor=floor)
    worth = len(own) if own_grouping is None else max(1, round(len(own) * min(1.0, own_grouping.n_effective / size)))
    uneven = np.bincount(np.arange(len(own)) * worth // len(own), shares)
    noise = floor if worth == size else _transported(alike[:, rng.permutation(size)[:worth]], equal, uneven)
    halves, small = [], []
    for _ in range(_HALVES):
        a, b, c = _half(own, n, own_grouping, rng), _half(first, m, grouping, rng), _half(second, m, grouping, rng)
        halves.append(_transported(apart[np.ix_(a, b)], shares[a], equal[b]))
        small.append(_transported(alike[np.ix_(b, c)], equal[b], equal[c]))
    # Halves of a set, drawn without replacement, scatter as sets of its size do.
    spread, spread_of_floor = (_SPREADS * float(np.std(part, ddof=1)) for part in (halves, small))
    return Distance(seen, max(0.0, seen - noise - math.hypot(spread_of_floor, spread)), seen + spread, size, seen=seen, floor=floor)


def _sides(m: int, grouping: Correlation | None, rng: np.random.Generator) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Frames for two sets that are independent: halves of all, or of the blocks."""
    blocks = None if grouping is None else grouping.blocks
    if blocks is None or blocks < 2:
        order = rng.permutation(m)
        return order[: m // 2], order[m // 2 :]
    ours = np.isin(np.arange(m) * blocks // m, rng.permutation(blocks)[: blocks // 2])
    return np.flatnonzero(ours), np.flatnonzero(~ours)


def _half(chosen: Int[np.ndarray, " s"], n: int, grouping: Correlation | None, rng: np.random.Generator) -> Int[np.ndarray, " h"]:
    """Places of a random half of those that were chosen from n, by whole blocks where they are correlated."""
    places = np.arange(len(chosen))
    if grouping is not None and grouping.blocks is not None:
        block = chosen * grouping.blocks // n
        there = rng.permutation(np.unique(block))
        if len(there) > 1:
            return places[np.isin(block, there[: len(there) // 2])]
    return np.sort(rng.permutation(places)[: max(1, len(chosen) // 2)])


def _drawn(n: int, log_w: Any, size: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Which of n samples are taken, and the share of each; by their weights a sample may be taken several times."""
    if log_w is None:
        return np.sort(rng.permutation(n)[:size]), np.full(size, 1.0 / size)
    # In random order: the draws lie at equal distances, which may be those at which heavy samples lie.
    order = rng.permutation(n)
    own, count = np.unique(order[_systematic(normalized(log_w)[order], size, rng)], return_counts=True)
    return own, count / size


def _tail_note(log_w: Any) -> str:
    weights = normalized(log_w)
    tail = tails.fit(weights / weights.max())
    return "" if tail.bounded_moments else tail.reason()


def _systematic(weights: Float[np.ndarray, " n"], count: int, rng: np.random.Generator) -> Int[np.ndarray, " c"]:
    """Indices drawn with the weights, with one random number for all (Kitagawa, 1996)."""
    cumulative = np.cumsum(weights)
    return np.minimum(np.searchsorted(cumulative, (rng.random() + np.arange(count)) / count * cumulative[-1]), weights.size - 1)


def _transported(costs: Float[np.ndarray, "a b"], shares: Float[np.ndarray, " a"], others: Float[np.ndarray, " b"]) -> float:
    """W2 of two weighted sets, exactly (POT's network simplex)."""
    import warnings

    with warnings.catch_warnings(), extras.of("evaluate", "exact transport"):
        # POT's docstrings have escapes that newer Pythons warn of when they compile them.
        warnings.simplefilter("ignore")
        import ot
    shares, others = shares / shares.sum(), others / others.sum()
    least: Any = ot.emd2(shares, others, np.ascontiguousarray(costs, np.float64), numItermax=2_000_000)
    return math.sqrt(max(0.0, float(least)))


def on_torus(angles: Any, reference: Any, **options: Any) -> Distance:
    """W2 of torsions on the flat torus, in radians (T-W2): the distance of two angles is the shorter way around.

    Args:
        angles: (n, k) torsions of the samples, in radians.
        reference: (m, k) those of the reference frames.
        **options: log_w, grouping, own_grouping, seed and most, as for `exact`.

    Raises:
        DataError: if the shapes do not fit, or see `exact`.
    """

    def apart(a: Float[np.ndarray, "a k"], b: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "a b"]:
        total = np.zeros((len(a), len(b)))
        for column in range(a.shape[1]):
            turn = np.abs(a[:, None, column] - b[None, :, column]) % (2.0 * np.pi)
            total += np.minimum(turn, 2.0 * np.pi - turn) ** 2
        return total

    return _of_points(angles, reference, apart, **options)


def in_space(points: Any, reference: Any, **options: Any) -> Distance:
    """W2 of points (n, k) and (m, k), such as the first coordinates of a TICA model; arguments and errors as for `on_torus`."""

    def apart(a: Float[np.ndarray, "a k"], b: Float[np.ndarray, "b k"]) -> Float[np.ndarray, "a b"]:
        return np.sum((a[:, None] - b[None]) ** 2, axis=-1)

    return _of_points(points, reference, apart, **options)


def _of_points(
    own: Any, other: Any, apart: Callable[[Float[np.ndarray, "a k"], Float[np.ndarray, "b k"]], Float[np.ndarray, "a b"]], **options: Any
) -> Distance:
    """`exact` of two sets of points, `apart` by their squared distances."""
    own, other = np.asarray(own, np.float64), np.asarray(other, np.float64)
    if own.ndim != 2 or other.ndim != 2 or own.shape[1] != other.shape[1]:
        raise DataError(f"two sets of points must have shapes (n, k) and (m, k), but have {own.shape} and {other.shape}.")
    return exact(lambda a, b: apart(own[a], other[b]), lambda a, b: apart(other[a], other[b]), len(own), len(other), **options)
