"""Means, histograms and distances between histograms, each with its interval."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis.estimate import LEVEL, Estimate, as_column, bootstrap, bootstrap_means, bracket, percentile_interval
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError

TOLERABLE_ERROR = 0.1
"""Error of log q, in nats, above which figures of a flow are not to be trusted."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """A normalised histogram with its 95 % bootstrap band.

    Attributes:
        edges: (b + 1,) edges of the bins.
        density: (b,) probability per unit of the value; integrates to 1 minus `outside`.
        low: (b,) lower end of the band; NaN for fewer than two samples.
        high: (b,) upper end of the band; NaN for fewer than two samples.
        outside: share of the weight outside the edges.
        n: samples that the histogram rests on.
    """

    edges: Float[np.ndarray, " b_plus_1"]
    density: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    outside: float
    n: int


def mean(values: Any, *, seed: int = 0) -> Estimate:
    """Mean of independent values with its bootstrap interval.

    Args:
        values: (n,) finite values.
        seed: seed of the bootstrap.

    Raises:
        DataError: if there are no values or any is not finite.
    """
    values = as_column(values, "values")
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} values are not finite; leave them out and report their number."
        )
    offset = float(values.mean())
    return bootstrap((values - offset)[:, None], lambda means: means[:, 0], seed=seed).shifted(offset)


def bin_matrix(values: Float[np.ndarray, "n k"], edges: Float[np.ndarray, " b_plus_1"], weights: Float[np.ndarray, " n"]) -> Any:
    """What each sample adds to each bin: a sparse (n, b) matrix whose column sums are the histogram.

    Args:
        values: (n, k), k values per sample, each with a k-th of the sample's weight. Values outside the edges and NaN are left out.
        edges: (b + 1,) rising edges.
        weights: (n,) weights that sum to one.
    """
    from scipy.sparse import csr_array

    n, k = values.shape
    bins = edges.size - 1
    index = np.searchsorted(edges, values, side="right") - 1
    index = np.where(values == edges[-1], bins - 1, index)
    inside = (index >= 0) & (index < bins) & np.isfinite(values)
    rows, places = np.nonzero(inside)
    return csr_array((weights[rows] / k, (rows, index[rows, places])), shape=(n, bins))


def histogram(values: Any, bins: Any, *, log_w: Any = None, seed: int = 0, replicas: int = 200) -> Histogram:
    """Histogram of samples, weighted or not.

    Args:
        values: (n,), or (n, k) for k values per sample (such as its pair distances); the bootstrap draws whole samples.
        bins: (b + 1,) edges.
        log_w: (n,) log-weights; None weighs all samples alike.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.

    Raises:
        DataError: if there are no values, or the shapes disagree.
    """
    columns, edges, n = _weighted_bins(values, bins, log_w)
    probability = np.asarray(columns.sum(axis=0)).ravel()
    replicated = _replicated(columns, log_w, seed, replicas)
    width = np.diff(edges)
    if n < 2:
        low = high = np.full(width.size, math.nan)
    else:
        low, high = np.quantile(replicated, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    outside = max(0.0, 1.0 - float(probability.sum()))
    return Histogram(edges, probability / width, low / width, high / width, outside if outside > 1e-12 else 0.0, n)


def total_variation(a: Histogram, b: Histogram) -> float:
    """Total variation distance of two histograms with the same edges, half the summed difference; what lies outside is one more bin.

    Between 0 (the same) and 1 (disjoint). Sampling noise keeps it above 0; `total_variation_distance` gives the interval.

    Raises:
        DataError: if the edges differ.
    """
    if a.edges.shape != b.edges.shape or not np.array_equal(a.edges, b.edges):
        raise DataError("the two histograms have different bins; make both with the same edges.")
    return float(0.5 * (np.sum(np.abs(a.density - b.density) * np.diff(a.edges)) + abs(a.outside - b.outside)))


def total_variation_distance(
    values_a: Any, values_b: Any, bins: Any, *, log_w_a: Any = None, log_w_b: Any = None, seed: int = 0
) -> Estimate:
    """Total variation distance of the histograms of two sets of samples, with interval.

    The interval is the basic bootstrap one, which takes off the upward shift that resampling noise gives to a distance; n is the
    smaller number of samples. Arguments as in `histogram`, for each set.
    """
    columns_a, _, n_a = _weighted_bins(values_a, bins, log_w_a)
    columns_b, _, n_b = _weighted_bins(values_b, bins, log_w_b)

    def distance(p: Float[np.ndarray, "R b"], q: Float[np.ndarray, "R b"]) -> Float[np.ndarray, " R"]:
        return 0.5 * (np.abs(p - q).sum(axis=1) + np.abs(p.sum(axis=1) - q.sum(axis=1)))

    value = float(distance(np.asarray(columns_a.sum(axis=0)).reshape(1, -1), np.asarray(columns_b.sum(axis=0)).reshape(1, -1))[0])
    replicated = distance(_replicated(columns_a, log_w_a, seed, 200, False), _replicated(columns_b, log_w_b, seed + 1, 200, False))
    n = min(n_a, n_b)
    low, high = percentile_interval(replicated, n)
    return bracket(value, max(0.0, 2 * value - high), max(0.0, min(1.0, 2 * value - low)), n)


def _weighted_bins(values: Any, bins: Any, log_w: Any) -> tuple[Any, Float[np.ndarray, " b_plus_1"], int]:
    values = np.asarray(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"a histogram needs values of shape (n,) or (n, k) with n, k >= 1, but they have shape {values.shape}.")
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.diff(edges) > 0):
        raise DataError("the edges of a histogram must be a rising sequence of at least two numbers.")
    n = values.shape[0]
    weights = np.full(n, 1.0 / n) if log_w is None else normalized(log_w)
    if weights.size != n:
        raise DataError(f"there are {weights.size} log-weights for {n} samples; pass one per sample.")
    return bin_matrix(values, edges, weights), edges, n


def _replicated(columns: Any, log_w: Any, seed: int, replicas: int, drop_empty: bool = True) -> Float[np.ndarray, "R b"]:
    """Bin probabilities of each replica; each replica is normalised by its own weight, inside and outside the edges."""
    from scipy.sparse import csr_array, hstack

    n = columns.shape[0]
    weights = np.full(n, 1.0 / n) if log_w is None else normalized(log_w)
    means = bootstrap_means(csr_array(hstack([columns, csr_array(weights[:, None])])), seed=seed, replicas=replicas)
    with np.errstate(invalid="ignore", divide="ignore"):
        replicated = means[:, :-1] / means[:, -1:]
    return replicated[~np.isnan(replicated).any(axis=1)] if drop_empty else replicated
