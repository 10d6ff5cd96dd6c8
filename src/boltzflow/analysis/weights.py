"""Importance weights: effective sample sizes, the partition function, expectations, the tail.

Log-weights are log w = -u(x) - log q(x). A sample that has no weight (a failed solve, an infinite energy) has log w = -inf and counts
in n: leaving it out would flatter every figure here.
"""

import math
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis.estimate import Estimate, as_column, bootstrap
from boltzflow.errors import DataError

MIN_TAIL = 25
"""Fewer weights than this in the tail say nothing about its shape."""


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

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        seed: seed of the bootstrap.
    """
    weights, largest = relative(log_w)
    if largest == -math.inf:
        return Estimate(0.0, 0.0, 0.0, weights.size)
    return bootstrap(np.stack([weights, weights**2], axis=1), lambda mean: mean[:, 0] ** 2 / mean[:, 1], seed=seed)


def forward_ess(log_w_on_target_samples: Any, *, seed: int = 0) -> Estimate:
    """Effective sample size seen from the target, 1 / (mean_p(w) mean_p(1/w)), as a fraction.

    Equal to the reverse one in expectation, but it notices modes that the flow misses (Midgley et al., 2023, appendix). A target
    sample with infinite or zero weight makes it 0; leave out those whose likelihood could not be solved, and report their number.

    Args:
        log_w_on_target_samples: (n,) log-weights -u - log q of samples of the target, up to a constant.
        seed: seed of the bootstrap.
    """
    log_w = check(log_w_on_target_samples, allow_infinite=True)
    if np.isinf(log_w).any():
        return Estimate(0.0, 0.0, 0.0, log_w.size)
    largest, smallest = log_w.max(), log_w.min()
    columns = np.stack([np.exp(log_w - largest), np.exp(smallest - log_w)], axis=1)
    return bootstrap(columns, lambda mean: np.exp(smallest - largest - np.log(mean[:, 0]) - np.log(mean[:, 1])), seed=seed)


def log_z(log_w: Any, *, seed: int = 0) -> Estimate:
    """Log of the partition function on the zero-CoM subspace, log mean_q w.

    Biased downwards where few samples carry the weight; read it together with `pareto_k`.

    Args:
        log_w: (n,) log-weights of samples of the flow.
        seed: seed of the bootstrap.
    """
    weights, largest = relative(log_w)
    if largest == -math.inf:
        return Estimate(-math.inf, -math.inf, -math.inf, weights.size)
    return bootstrap(weights[:, None], lambda mean: largest + np.log(mean[:, 0]), seed=seed)


def expectation(log_w: Any, values: Any, *, seed: int = 0) -> Estimate:
    """Self-normalised expectation sum w f / sum w under the target.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        values: (n,) values f(x) of an observable, in its own units. Values of samples without weight do not matter and may be NaN.
        seed: seed of the bootstrap.

    Raises:
        DataError: if a sample that has weight has a value that is not finite, or no sample has weight.
    """
    weights = normalized(log_w)
    values = as_column(values, "values", n=weights.size)
    values = np.where(weights > 0, values, 0.0)
    if not np.isfinite(values).all():
        raise DataError(f"the observable is not finite on {int((~np.isfinite(values)).sum())} samples that have weight; mask or mend it.")
    # A large offset common to all values would cost digits in the bootstrap sums.
    offset = float(np.sum(weights * values))
    estimate = bootstrap(np.stack([weights, weights * (values - offset)], axis=1), lambda mean: mean[:, 1] / mean[:, 0], seed=seed)
    return estimate.shifted(offset)


def pareto_k(log_w: Any) -> float:
    """Shape of the weights' tail by the generalised Pareto fit of PSIS; above 0.7 nothing here is to be trusted.

    With tail shape k the weights have 1/k finite moments (Vehtari et al., 2024, J. Mach. Learn. Res. 25, 72). NaN where fewer than
    `MIN_TAIL` weights make the tail, or the weights in it are all the same (a perfect flow).

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
    """
    weights, _ = relative(log_w)
    n = weights.size
    tail = tail_size(n)
    if tail < MIN_TAIL or np.unique(np.partition(weights, n - tail - 1)[n - tail - 1 :]).size < MIN_TAIL:
        return math.nan
    from arviz_stats.base.array import array_stats  # seconds of imports that only this function needs

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # Weights and not log-weights: `log_weights=True` only chooses the tail in arviz-stats 0.8 to 1.3, it does not exponentiate.
        k = float(np.asarray(array_stats.pareto_khat(weights[None, :], chain_axis=0, draw_axis=1, r_eff=1.0, tail="right")))
    return k if math.isfinite(k) else math.nan


def tail_size(n: int) -> int:
    """How many of n weights PSIS takes as the tail: 3 sqrt(n), or a fifth of few."""
    return int(3 * math.sqrt(n)) if n > 225 else n // 5


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
