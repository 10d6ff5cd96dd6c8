"""Means, histograms and distances between histograms, each with its interval."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis import distances, tails
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.distances import Distance
from boltzflow.analysis.estimate import LEVEL, Estimate, as_column, bootstrap_means, in_blocks, percentile_interval
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError

TOLERABLE_ERROR = 0.1
"""Error of log q, in nats, above which figures of a flow are not to be trusted."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """A normalised histogram with its 95 % bootstrap band.

    Example:
        >>> shown = bf.analysis.metrics.histogram(np.random.default_rng(0).normal(size=1_000), np.linspace(-4, 4, 21))
        >>> round(float(np.sum(shown.density * np.diff(shown.edges))), 2), shown.n
        (1.0, 1000)

    Attributes:
        edges: (b + 1,) edges of the bins.
        density: (b,) probability per unit of the value; integrates to 1 minus `outside`.
        low: (b,) lower end of the band; NaN for fewer than two samples, and where the weights bear no band.
        high: (b,) upper end of the band; NaN likewise.
        outside: share of the weight outside the edges.
        n: samples that the histogram rests on.
        note: why the weights bear no band, in words; empty where they do.
    """

    edges: Float[np.ndarray, " b_plus_1"]
    density: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    outside: float
    n: int
    note: str = ""


def mean(values: Any, *, seed: int = 0, correlation: Correlation | None = None) -> Estimate:
    """Mean of values with its interval.

    The interval holds those of a bootstrap and of Student's t, of blocks of consecutive values where they are correlated.

    Args:
        values: (n,) finite values.
        seed: seed of the bootstrap.
        correlation: what the values are worth, in the order of their chains (`analysis.correlation.of_series`); None if they are
            independent.

    Raises:
        DataError: if there are no values or any is not finite.
    """
    values = as_column(values, "values")
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} values are not finite; leave them out and report their number."
        )
    offset = float(values.mean())
    n = values.size
    if n < 2:
        return Estimate(offset, math.nan, math.nan, n)
    from scipy.stats import t

    blocks = n if correlation is None or correlation.blocks is None else correlation.blocks
    effective = float(n) if correlation is None else correlation.n_effective
    means = np.asarray(in_blocks((values - offset)[:, None], None if blocks == n else blocks))[:, 0]
    # Blocks and the autocorrelation time each see the noise of the mean in their own way; the larger one counts.
    error = max(float(means.std(ddof=1)) / math.sqrt(blocks), float(values.std()) / math.sqrt(effective))
    half = float(t.ppf((1 + LEVEL) / 2, max(1, min(blocks, round(effective)) - 1))) * error
    low, high = percentile_interval(bootstrap_means(means[:, None], seed=seed)[:, 0], n)
    reported = None if correlation is None else correlation.reported
    return Estimate(offset, offset + min(low, -half), offset + max(high, half), n, n_effective=reported)


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
    replicated, note = _replicated(columns, log_w, seed, replicas)
    width = np.diff(edges)
    if n < 2 or note:
        low = high = np.full(width.size, math.nan)
    else:
        low, high = np.quantile(replicated, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    outside = max(0.0, 1.0 - float(probability.sum()))
    return Histogram(edges, probability / width, low / width, high / width, outside if outside > 1e-12 else 0.0, n, note)


def total_variation(a: Histogram, b: Histogram) -> float:
    """Total variation distance of two histograms with the same edges, half the summed difference; what lies outside is one more bin.

    Between 0 (the same) and 1 (disjoint). Sampling noise keeps it above 0; `total_variation_distance` takes that off.

    Args:
        a: one histogram.
        b: the other.

    Raises:
        DataError: if the edges differ.
    """
    if a.edges.shape != b.edges.shape or not np.array_equal(a.edges, b.edges):
        raise DataError("the two histograms have different bins; make both with the same edges.")
    return float(0.5 * (np.sum(np.abs(a.density - b.density) * np.diff(a.edges)) + abs(a.outside - b.outside)))


def total_variation_distance(
    values_a: Any,
    values_b: Any,
    bins: Any,
    *,
    log_w_a: Any = None,
    log_w_b: Any = None,
    seed: int = 0,
    blocks_a: int | None = None,
    blocks_b: int | None = None,
    replicas: int = 300,
) -> Distance:
    """Total variation distance of the densities, over bins, of two sets of samples; see `distances` for value, interval and floor.

    What lies outside the edges is one more bin; n is the smaller number of samples. Arguments as in `histogram`, for each set, and:

    Args:
        values_a: values of one set, in the order of the chains if they are correlated.
        values_b: values of the other.
        bins: edges, as in `histogram`.
        log_w_a: log-weights of one set; None weighs all alike.
        log_w_b: those of the other.
        seed: seed of the bootstrap.
        blocks_a: blocks of consecutive samples of one set that are drawn whole; None: its samples are independent.
        blocks_b: those of the other.
        replicas: bootstrap replicas.
    """
    found, noise, counts, notes = [], [], [], []
    for number, (values, log_w, blocks) in enumerate(((values_a, log_w_a, blocks_a), (values_b, log_w_b, blocks_b))):
        columns, _, n = _weighted_bins(values, bins, log_w)
        probability = np.asarray(columns.sum(axis=0)).ravel()
        drawn, note = _replicated(columns, log_w, seed + number, replicas, blocks=blocks)
        distances.check_replicas(len(drawn))
        found.append(np.append(probability, 1.0 - probability.sum()))
        drawn = np.concatenate([drawn, 1.0 - drawn.sum(axis=1, keepdims=True)], axis=1)
        widening = 1.0 if blocks is None else Correlation(n, float(blocks), blocks).widening
        noise.append(widening * (drawn - found[-1]))
        counts.append(n)
        notes += [note] if note else []
    difference = found[0] - found[1]
    # Sums of probabilities may be rounded above 1.
    seen, n = min(1.0, float(0.5 * np.abs(difference).sum())), min(counts)
    if notes or n < 2:
        return distances.unknown(seen, n, notes[0] if notes else "one sample is too few", largest=1.0)
    rows = min(len(part) for part in noise)
    both = noise[0][:rows] - noise[1][:rows]
    # Part of the difference that is seen is noise, spread over all bins; where noise is taken off, the rest lies in fewer of them. How much
    # noise adds to the distance depends on which it is.
    shapes = [difference]
    clear = np.sign(difference) * np.maximum(np.abs(difference) - both.std(axis=0), 0.0)
    if clear.any():
        shapes.append(clear * (seen / (0.5 * np.abs(clear).sum())))
    result = distances.joined(
        [
            distances.inverted(
                lambda step: step * seen, lambda step, shape=shape: 0.5 * np.abs(step * shape + both).sum(axis=1), seen, n, largest=1.0
            )
            for shape in shapes
        ]
    )
    # The shape that is seen holds noise, and what noise adds to the distance of the true one may be less. It never takes away on average.
    return dataclasses.replace(result, high=max(result.high, seen))


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


def _replicated(columns: Any, log_w: Any, seed: int, replicas: int, *, blocks: int | None = None) -> tuple[Float[np.ndarray, "R b"], str]:
    """Bin probabilities of each replica, normalised by its own weight, inside and outside the edges; and why they bear no interval."""
    from scipy.sparse import csr_array, hstack

    n = columns.shape[0]
    weights = np.full(n, 1.0 / n) if log_w is None else normalized(log_w)
    tail = tails.Tail(tails.EQUAL, n) if log_w is None else tails.fit(weights / weights.max())
    note = "" if tail.bounded_moments else tail.reason()
    grouping = None if blocks is None else Correlation(n, float(blocks), blocks)
    columns = csr_array(hstack([columns, csr_array(weights[:, None])]))
    # Where there is no honest band the plain one is as good as any.
    tail = tails.Tail(tails.EQUAL, n) if note else tail
    means = tails.replicated_sums(columns, weights / weights.max(), tail, seed=seed, replicas=replicas, grouping=grouping)[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        replicated = means[:, :-1] / means[:, -1:]
    return replicated[~np.isnan(replicated).any(axis=1)], note
