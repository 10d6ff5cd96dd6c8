"""Effective sample sizes without the largest weights, which some publications print.

Dropping the largest 0.2 % of the weights (as in sequential Boltzmann generators, arXiv:2502.18462) can only raise an effective sample size:
these figures are for comparison with such ones, never for judging a flow. `weights` has the honest ones.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis import weights
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.estimate import NONE, REPLICAS, Estimate, percentile_interval

SHARE = 0.002
"""Of the weights, the largest ones, that is dropped."""

NOTE = "without the largest 0.2 % of the weights, only to compare with published figures that leave them out"


def reverse_ess(log_w: Any, *, seed: int = 0) -> Estimate:
    """As `weights.reverse_ess`, without the 0.2 % of the samples (rounded down) of the largest weights, as a share of those that are left.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        seed: seed of the bootstrap.
    """
    values = np.sort(weights.relative(log_w)[0])
    return _trimmed(values, lambda counts: _kish(counts @ values, counts @ values**2, counts.sum(axis=1)), None, seed=seed)


def forward_ess(log_w_on_target_samples: Any, *, seed: int = 0, correlation: Correlation | None = None) -> Estimate:
    """As `weights.forward_ess`, of frames without the 0.2 % (rounded down) that have the largest weights.

    Args:
        log_w_on_target_samples: (n,) log-weights -u - log q of samples of the target, finite.
        seed: seed of the bootstrap.
        correlation: what the samples are worth, in the order of their chains; None if they are independent.
    """
    log_w = weights.check(log_w_on_target_samples)
    order = np.argsort(log_w, kind="stable")
    sorted_log_w = log_w[order] - np.median(log_w)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        values, inverse = np.exp(sorted_log_w - sorted_log_w[-1]), np.exp(sorted_log_w[0] - sorted_log_w)
        scale = np.exp(min(700.0, sorted_log_w[-1] - sorted_log_w[0]))
    return _trimmed(
        values,
        lambda counts: np.minimum(1.0, counts.sum(axis=1) ** 2 / np.maximum((counts @ values) * (counts @ inverse) * scale, 1e-300)),
        correlation,
        order=order,
        seed=seed,
    )


def _kish(first: Float[np.ndarray, " R"], second: Float[np.ndarray, " R"], count: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(second > 0.0, np.minimum(1.0, first**2 / (second * count)), 0.0)


def _trimmed(values: Float[np.ndarray, " n"], figure: Any, correlation: Correlation | None, *, order: Any = None, seed: int) -> Estimate:
    """A figure of rising weights, each of which occurs so many times, but for the largest; with the bootstrap over them."""
    n = values.size
    order = np.arange(n) if order is None else order
    blocks = None if correlation is None else correlation.blocks
    rng = np.random.default_rng(seed)
    found = [float(figure(_without_largest(np.ones((1, n))))[0])]
    for _ in range(REPLICAS if n > 1 else 0):
        if blocks is None:
            counts = np.bincount(rng.integers(0, n, n), minlength=n)
        else:
            counts = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks)[np.arange(n) * blocks // n]
        found.append(float(figure(_without_largest(counts[None, order].astype(np.float64)))[0]))
    value, replicated = found[0], np.array(found[1:])
    low, high = percentile_interval(replicated, n)
    effective = None if correlation is None else correlation.reported
    if not (np.isfinite(low) and np.isfinite(high)):
        return Estimate(value, 0.0, 1.0, n, NONE, NOTE, effective)
    widening = 1.0 if correlation is None else correlation.widening
    low, high = (value + widening * (end - value) for end in (min(low, value), max(high, value)))
    return Estimate(value, max(0.0, low), min(1.0, high), n, note=NOTE, n_effective=effective)


def _without_largest(counts: Float[np.ndarray, "R n"]) -> Float[np.ndarray, "R n"]:
    """Counts of rising weights without the largest ones, as many as are dropped."""
    dropped = np.floor(SHARE * counts.sum(axis=1, keepdims=True))
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    return counts - np.clip(dropped - (above - counts), 0.0, counts)
