"""Importance weights: effective sample sizes, the partition function, expectations, the tail.

Log-weights are log w = -u(x) - log q(x). A sample that has no weight (a failed solve, an infinite energy) has log w = -inf and counts
in n: leaving it out would flatter every figure here.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis import tails
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.estimate import (
    AT_LEAST,
    AT_MOST,
    LEVEL,
    NONE,
    REPLICAS,
    Estimate,
    as_column,
    bootstrap_means,
    bracket,
    in_blocks,
    percentile_interval,
)
from boltzflow.errors import DataError

MIN_TAIL = tails.MIN_TAIL
tail_size = tails.tail_size


def check(log_w: Any, *, allow_infinite: bool = False) -> Float[np.ndarray, " n"]:
    """Log-weights (n,) as float64.

    Raises:
        DataError: if there are none, any is NaN, or any is +inf and `allow_infinite` is False.
    """
    log_w = as_column(log_w, "log-weights")
    if np.isnan(log_w).any():
        raise DataError(f"{int(np.isnan(log_w).sum())} of {log_w.size} log-weights are NaN; a sample without a weight has -inf, not NaN.")
    if not allow_infinite and np.isposinf(log_w).any():
        raise DataError(
            f"{int(np.isposinf(log_w).sum())} of {log_w.size} log-weights are +inf, which no sample of a flow can have; "
            "check that u and log q are finite there."
        )
    return log_w


def relative(log_w: Any) -> tuple[Float[np.ndarray, " n"], float]:
    """Weights divided by the largest, and the logarithm of the largest; all zero and -inf if no sample has weight."""
    log_w = check(log_w)
    largest = float(log_w.max())
    if largest == -math.inf:
        return np.zeros_like(log_w), largest
    return np.exp(log_w - largest), largest


def normalized(log_w: Any) -> Float[np.ndarray, " n"]:
    """Weights that sum to one.

    Args:
        log_w: (n,) log-weights, in nats, up to a constant.

    Raises:
        DataError: if the log-weights are unusable, or no sample has weight.
    """
    weights, largest = relative(log_w)
    if largest == -math.inf:
        raise DataError(f"none of the {weights.size} samples has weight: all failed or have an infinite energy.")
    return weights / weights.sum()


def reverse_ess(log_w: Any, *, seed: int = 0) -> Estimate:
    """Kish's effective sample size of samples of the flow, (sum w)^2 / (n sum w^2), as a fraction of n (Kish, 1965).

    The value of few samples flatters: the weights that would lower it have not been drawn. The lower end of the interval allows for what
    lies beyond the largest weight (`tails`); where that may be anything, as it may for a Pareto k above 0.5, the upper end alone is given.
    It is that of the weights cut at the third largest: cutting can only raise the effective sample size, and bounded weights have an
    honest bootstrap.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        seed: seed of the bootstrap.
    """
    weights, largest = relative(log_w)
    n = weights.size
    if largest == -math.inf:
        # None of n: less than this share has weight.
        return Estimate(0.0, 0.0, _poisson_limit(0, n), n, AT_MOST, "none of the samples has weight")
    value = float(weights.mean() ** 2 / np.mean(weights**2))
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    tail = tails.fit(weights)
    if tail.state == tails.FEW:
        return Estimate(value, 0.0, 1.0, n, NONE, tail.reason())
    if tail.state == tails.HEAVY:
        return Estimate(value, 0.0, max(value, _poisson_limit(value * n, n)), n, AT_MOST, tail.reason())
    cut = np.minimum(weights, np.partition(weights, n - 3)[n - 3])
    columns = np.stack([weights, weights**2, cut, cut**2], axis=1)
    if tail.state == tails.EQUAL:
        replicated = bootstrap_means(columns[:, :2], seed=seed)
        return bracket(value, *percentile_interval(replicated[:, 0] ** 2 / replicated[:, 1], n), n)
    assert tail.inside is not None
    body = np.where(tail.inside, 0.0, weights)
    columns = np.concatenate([columns, np.stack([body, body**2, tail.inside.astype(np.float64)], axis=1)], axis=1)
    means = bootstrap_means(columns, seed=seed)
    first, second = (means[:, 3 + p] + tails.times(means[:, 6], tail.means(REPLICAS, seed=seed, power=p)) for p in (1, 2))
    plain = means[:, 0] ** 2 / means[:, 1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        beyond = np.where(np.isfinite(second), np.minimum(first, 1e100) ** 2 / second, 0.0)
    low, high = percentile_interval(np.minimum(plain, beyond), n)[0], percentile_interval(np.maximum(plain, beyond), n)[1]
    if low <= 0.0 or tail.k >= 0.5:
        most = float(np.nanquantile(means[:, 2] ** 2 / means[:, 3], LEVEL))
        return Estimate(value, 0.0, min(1.0, max(most, value)), n, AT_MOST, tail.reason(2))
    return bracket(value, low, min(high, 1.0), n)


def _poisson_limit(count: float, n: int) -> float:
    """Upper 95 % limit of a share of which `count` of n were seen (Garwood, 1936)."""
    from scipy.stats import gamma

    return min(1.0, float(gamma.ppf(LEVEL, count + 1.0)) / n)


def forward_ess(log_w_on_target_samples: Any, *, seed: int = 0, correlation: Correlation | None = None) -> Estimate:
    """Effective sample size seen from the target, 1 / (mean_p(w) mean_p(1/w)), as a fraction.

    Equal to the reverse one in expectation, but it notices modes that the flow misses (Midgley et al., 2023, appendix). A target
    sample with infinite or zero weight makes it 0; leave out those whose likelihood could not be solved, and report their number. Both
    means have a tail of their own; else the interval is made as that of `reverse_ess`.

    Args:
        log_w_on_target_samples: (n,) log-weights -u - log q of samples of the target, up to a constant.
        seed: seed of the bootstrap.
        correlation: what the samples are worth, in the order of their chains; None if they are independent.
    """
    log_w = check(log_w_on_target_samples, allow_infinite=True)
    n = log_w.size
    grouping = correlation
    effective = None if grouping is None else grouping.reported
    if np.isinf(log_w).any():
        return Estimate(0.0, 0.0, 0.0, n, n_effective=effective)
    both = [log_w, -log_w]
    scale = float(sum(part.max() for part in both))
    parts = [np.exp(part - part.max()) for part in both]
    value = math.exp(-scale - math.log(parts[0].mean()) - math.log(parts[1].mean()))
    if n < 2:
        return Estimate(value, math.nan, math.nan, n, n_effective=effective)
    fits = [tails.fit(part) for part in parts]
    worst = max(fits, key=lambda tail: (tail.state in (tails.FEW, tails.HEAVY), tail.k if math.isfinite(tail.k) else -math.inf))
    if worst.state == tails.FEW:
        return Estimate(value, 0.0, 1.0, n, NONE, worst.reason(), effective)
    blocks, widening = (None, 1.0) if grouping is None else (grouping.blocks, grouping.widening)
    plain, beyond, bounded = np.full(REPLICAS, -scale), np.full(REPLICAS, -scale), np.full(REPLICAS, -scale)
    for part, tail in zip(parts, fits, strict=True):
        both_means = tails.replicated_sums(part[:, None], part, tail, seed=seed, grouping=grouping)
        cut = np.minimum(part, np.partition(part, n - 3)[n - 3])
        cut_means = bootstrap_means(in_blocks(cut[:, None], blocks), seed=seed)
        with np.errstate(divide="ignore"):
            plain -= np.log(both_means[0][:, 0])
            beyond -= np.where(both_means[1][:, 0] > 1e90, np.inf, np.log(both_means[1][:, 0]))
            bounded -= np.log(cut_means[:, 0])
    low, high = percentile_interval(np.minimum(plain, beyond), n)[0], percentile_interval(np.maximum(plain, beyond), n)[1]
    centre = math.log(value) if value > 0.0 else -math.inf
    low, high = (math.exp(min(0.0, centre + widening * (end - centre))) if math.isfinite(end) else 0.0 for end in (low, high))
    if low <= 0.0 or not worst.bounded_moments:
        most = centre + widening * (float(np.nanquantile(bounded, LEVEL)) - centre)
        return Estimate(value, 0.0, max(value, math.exp(min(0.0, most))), n, AT_MOST, worst.reason(), effective)
    return dataclasses.replace(bracket(value, low, high, n), n_effective=effective)


def log_z(log_w: Any, *, seed: int = 0) -> Estimate:
    """Log of the partition function on the zero-CoM subspace, log mean_q w.

    Biased downwards where few samples carry the weight. The upper end of the interval allows for what lies beyond the largest weight; where
    that may be anything, the lower end alone is given: the higher of that of the weights cut at the third largest, and of Markov's
    inequality, by which the mean of positive weights exceeds Z / 0.05 with a probability of 5 % at most.

    Args:
        log_w: (n,) log-weights of samples of the flow.
        seed: seed of the bootstrap.
    """
    weights, largest = relative(log_w)
    n = weights.size
    if largest == -math.inf:
        return Estimate(-math.inf, -math.inf, math.inf, n, NONE, "none of the samples has weight")
    value = largest + math.log(weights.mean())
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    tail = tails.fit(weights)
    # Two bounds of which the better is taken must both hold: each may fail half as often.
    markov = value + math.log((1.0 - LEVEL) / 2.0)
    if tail.state in (tails.FEW, tails.HEAVY):
        return Estimate(value, value + math.log(1.0 - LEVEL), math.inf, n, AT_LEAST, tail.reason())
    plain, beyond = (means[:, 0] for means in tails.replicated_sums(weights[:, None], weights, tail, seed=seed))
    ends = percentile_interval(np.minimum(plain, beyond), n)[0], percentile_interval(np.maximum(plain, beyond), n)[1]
    if not tail.bounded_moments or ends[1] > 1e90:
        cut = np.minimum(weights, np.partition(weights, n - 3)[n - 3])
        least = percentile_interval(bootstrap_means(cut[:, None], seed=seed)[:, 0], n)[0]
        least = largest + math.log(least) if least > 0.0 else -math.inf
        return Estimate(value, min(value, max(markov, least)), math.inf, n, AT_LEAST, tail.reason())
    low, high = (largest + math.log(end) if end > 0.0 else -math.inf for end in ends)
    return bracket(value, low, high, n)


def expectation(log_w: Any, values: Any, *, seed: int = 0, correlation: Correlation | None = None) -> Estimate:
    """Self-normalised expectation sum w f / sum w under the target.

    Where the weights' tail is too heavy (`tails.Tail.bounded_moments`) there is no interval: what the samples that were not drawn would
    give is not known.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        values: (n,) values f(x) of an observable, in its own units. Values of samples without weight do not matter and may be NaN.
        seed: seed of the bootstrap.
        correlation: what the samples are worth, in the order of their chains, as by `correlation.of_series` of their shares of the mean,
            w (f - mean); None if they are independent.

    Raises:
        DataError: if a sample that has weight has a value that is not finite, or no sample has weight.
    """
    weights = normalized(log_w)
    values = as_column(values, "values", n=weights.size)
    values = np.where(weights > 0, values, 0.0)
    if not np.isfinite(values).all():
        raise DataError(f"the observable is not finite on {int((~np.isfinite(values)).sum())} samples that have weight; mask or mend it.")
    # A large offset common to all values would cost digits in the bootstrap sums.
    value = float(np.sum(weights * values))
    n = weights.size
    effective = None if correlation is None else correlation.reported
    if n < 2:
        return Estimate(value, math.nan, math.nan, n, n_effective=effective)
    if np.ptp(values[weights > 0]) == 0.0:
        return Estimate(value, value, value, n, n_effective=effective)
    weights = weights / weights.max()
    tail = tails.fit(weights)
    if not tail.bounded_moments:
        return Estimate(value, -math.inf, math.inf, n, NONE, tail.reason(), effective)
    columns = np.stack([weights, weights * (values - value)], axis=1)
    ends, widening = [], 1.0 if correlation is None else correlation.widening
    for means in tails.replicated_sums(columns, weights, tail, seed=seed, grouping=correlation):
        with np.errstate(invalid="ignore", divide="ignore"):
            ends.append(percentile_interval(means[:, 1] / means[:, 0], n))
    low, high = widening * min(ends[0][0], ends[1][0]), widening * max(ends[0][1], ends[1][1])
    return dataclasses.replace(bracket(value, value + low, value + high, n), n_effective=effective)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether figures that rest on the weights can be trusted.

    Example:
        >>> verdict = bf.analysis.weights.verdict(np.random.default_rng(0).normal(scale=0.3, size=1_000))
        >>> verdict.trusted
        True

    Attributes:
        trusted: None where there are too few samples to tell.
        k: Pareto k; NaN where the tail cannot be fitted, inf where too few samples carry all the weight for that.
        sentence: the outcome in words, without a full stop.
    """

    trusted: bool | None
    k: float
    sentence: str


def verdict(log_w: Any) -> Verdict:
    """Whether figures that rest on the weights can be trusted, by the shape of their tail and the number of samples.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
    """
    weights, largest = relative(log_w)
    n = weights.size
    if largest == -math.inf:
        return Verdict(False, math.nan, "no sample has weight: do not trust reweighted figures")
    tail = tails.fit(weights)
    if tail.state == tails.EQUAL:
        k = tail.k if tail.size >= MIN_TAIL else math.nan
        return Verdict(True, k, "the largest weight is one of many alike: the weights can be trusted")
    if tail.state == tails.HEAVY:
        heavy = max(1, round(float(weights.sum() ** 2 / np.sum(weights**2))))
        return Verdict(False, math.inf, f"about {heavy} of {n} samples carry all the weight: do not trust reweighted figures")
    if tail.state == tails.FEW or tail.size < MIN_TAIL:
        return Verdict(None, math.nan, f"{n} samples are too few to tell")
    bound = tails.limit(n)
    if tail.k < bound:
        return Verdict(True, tail.k, f"below {bound:.2g}, the limit for {n} samples: the weights can be trusted")
    return Verdict(False, tail.k, f"above {bound:.2g}, the limit for {n} samples: do not trust reweighted figures")


def pareto_k(log_w: Any) -> float:
    """Shape of the weights' tail by the generalised Pareto fit of PSIS; `verdict` says what it means.

    With tail shape k the weights have 1/k finite moments (Vehtari et al., 2024, J. Mach. Learn. Res. 25, 72). NaN where fewer than
    `MIN_TAIL` weights make the tail, or the largest are all the same (a perfect flow); inf where too few samples carry all the weight for
    a fit, which is worse than any finite value.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
    """
    return verdict(log_w).k


def resample_indices(log_w: Any, n: int, *, seed: int) -> Int[np.ndarray, " n"]:
    """Indices of n equally weighted samples of the target, by systematic resampling, in random order.

    Sample i is taken floor or ceil of n w_i times, the least noise that resampling can have (Kitagawa, 1996).

    Args:
        log_w: (m,) log-weights of samples of the flow, up to a constant.
        n: how many to draw; at most the effective sample size of them are independent.
        seed: seed of the offset and of the order.

    Raises:
        DataError: if n is below 1 or no sample has weight.
    """
    if n < 1:
        raise DataError(f"cannot resample {n} samples; ask for at least one.")
    weights = normalized(log_w)
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(weights)
    indices = np.searchsorted(cumulative, (rng.random() + np.arange(n)) / n * cumulative[-1], side="right")
    # Rounding may point past the last sample that has weight.
    last = int(np.flatnonzero(weights)[-1])
    return rng.permutation(np.minimum(indices, last))
