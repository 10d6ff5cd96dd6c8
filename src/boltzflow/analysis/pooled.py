"""Wasserstein distance of numbers of which each configuration has many, such as its pair distances.

Numbers of one configuration are not independent, so that configurations are what a bootstrap draws. There are too many numbers to sort
them in each replica: each configuration has a histogram over narrow bins, and a replica is a sum of these.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis import distances, tails, transport
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.distances import Distance
from boltzflow.analysis.estimate import AT_LEAST
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError

_BINS, _GRID = 1024, 512
# Quantiles that the plain distance is summed over.
_FINE = 200_000


def on_line(
    values: Any,
    reference: Any,
    *,
    log_w: Any = None,
    grouping: Correlation | None = None,
    own_grouping: Correlation | None = None,
    seed: int = 0,
    replicas: int = 200,
) -> Distance:
    """W2 of all numbers of configurations, each with an equal share of its configuration's weight.

    Args:
        values: (n, k) numbers of the samples.
        reference: (m, k) those of the reference frames.
        log_w: log-weights of the samples; None weighs all alike.
        grouping: what the reference frames are worth (`correlation.of_series`); None: they are independent.
        own_grouping: what the samples are worth, likewise.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.

    Returns:
        The plain distance, the interval of that of the densities, and the floor: what two independent sets of reference frames of these
        sizes are apart. n is the number of configurations.

    Raises:
        DataError: if the shapes do not fit, or numbers are not finite where a configuration has weight.
    """
    own, other = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if own.ndim != 2 or other.ndim != 2 or own.shape[1] != other.shape[1] or 0 in (*own.shape, *other.shape):
        raise DataError(f"two sets of numbers must have shapes (n, k) and (m, k), but have {own.shape} and {other.shape}.")
    weights = np.full(len(own), 1.0 / len(own)) if log_w is None else normalized(log_w)
    if weights.size != len(own):
        raise DataError(f"there are {weights.size} log-weights for {len(own)} samples; pass one per sample.")
    own = np.where(weights[:, None] > 0.0, own, other[:1])
    if not (np.isfinite(own).all() and np.isfinite(other).all()):
        raise DataError("numbers must be finite where a configuration has weight.")
    equal, n = np.full(len(other), 1.0 / len(other)), min(len(own), len(other))
    fine = (np.arange(min(_FINE, max(own.size, other.size))) + 0.5) / min(_FINE, max(own.size, other.size))
    truth = _quantiles(other, equal, fine)
    away = _quantiles(own, weights, fine) - truth
    seen = float(transport.root_mean_square(away))
    edges = _edges(own, weights, other)
    grid = (np.arange(_GRID) + 0.5) / _GRID
    chains = _noise(other, equal, edges, grid, seed, replicas, grouping)
    alike = _noise(other, equal, edges, grid, seed + 1, replicas, None) * math.sqrt(len(other) / len(own))
    floor = float(np.mean(transport.root_mean_square(chains - alike)))
    tail = tails.Tail(tails.EQUAL, n) if log_w is None else tails.fit(weights / weights.max())
    note = "one sample is too few" if n < 2 else "" if tail.bounded_moments else tail.reason()
    if note:
        return Distance(seen, 0.0, math.inf, n, distances.NONE, note, seen=seen, floor=floor)
    noise = _noise(own, weights, edges, grid, seed + 2, replicas, own_grouping) - chains
    coarse = away[np.minimum((grid * fine.size).astype(np.int64), fine.size - 1)]
    size = float(transport.root_mean_square(coarse))
    # The coarse quantiles miss some of the tails.
    coarse = coarse * (seen / size) if size > 0.0 else coarse
    found = transport.interval(coarse, noise, seen, n)
    heavy = transport.heavy_tail(own.max(axis=1)) if log_w is None else ""
    if heavy:
        return Distance(seen, found.low, math.inf, n, AT_LEAST, heavy, seen=seen, floor=floor)
    return Distance(seen, found.low, found.high, n, seen=seen, floor=floor)


def _quantiles(
    values: Float[np.ndarray, "n k"], weights: Float[np.ndarray, " n"], grid: Float[np.ndarray, " g"]
) -> Float[np.ndarray, " g"]:
    order = np.argsort(values, axis=None, kind="stable")
    cumulative = np.cumsum(weights[order // values.shape[1]])
    return values.ravel()[order[np.minimum(np.searchsorted(cumulative, grid * cumulative[-1], side="left"), order.size - 1)]]


def _edges(own: Float[np.ndarray, "n k"], weights: Float[np.ndarray, " n"], other: Float[np.ndarray, "m k"]) -> Float[np.ndarray, " b"]:
    """Edges of bins that hold about as much of both sets, and the outermost numbers."""
    grid = (np.arange(_BINS // 2) + 0.5) / (_BINS // 2)
    ends = [part.min() for part in (own, other)] + [part.max() for part in (own, other)]
    return np.unique(np.concatenate([_quantiles(own, weights, grid), _quantiles(other, np.full(len(other), 1.0 / len(other)), grid), ends]))


def _noise(
    values: Float[np.ndarray, "n k"],
    weights: Float[np.ndarray, " n"],
    edges: Float[np.ndarray, " b"],
    grid: Float[np.ndarray, " g"],
    seed: int,
    replicas: int,
    grouping: Correlation | None,
) -> Float[np.ndarray, "R g"]:
    """Quantiles of bootstrap replicas less those of the values."""
    n, k = values.shape
    bins = len(edges) - 1
    if bins < 1:
        return np.zeros((replicas, len(grid)))
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    shares = np.bincount((np.arange(n)[:, None] * bins + place).ravel(), minlength=n * bins).reshape(n, bins).astype(np.float32) / k
    blocks = None if grouping is None else grouping.blocks
    rng = np.random.default_rng(seed)
    if blocks is None:
        counts = rng.multinomial(n, np.full(n, 1.0 / n), size=replicas)
    else:
        counts = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=replicas)[:, np.arange(n) * blocks // n]
    rows = np.concatenate([np.ones((1, n)), counts]) * weights
    sums = np.concatenate([np.zeros((replicas + 1, 1)), np.cumsum(rows.astype(np.float32) @ shares, axis=1, dtype=np.float64)], axis=1)
    sums /= np.maximum(sums[:, -1:], 1e-300)
    found = np.stack([np.interp(grid, row, edges) for row in sums])
    return (found[1:] - found[0]) * (1.0 if grouping is None else grouping.widening)
