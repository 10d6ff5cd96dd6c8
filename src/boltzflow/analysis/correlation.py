"""Correlated samples: which of them to take, how many independent ones they are worth, and blocks to draw them in.

Frames of chains lie chain by chain, or sweep by sweep, or in an order that nobody knows. Frames that are taken from one end are those of
a few chains, or of the beginning of all; a regular stride may be that of the chains. Random frames, one from each of equal parts, are
neither.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

MAX_BLOCKS = 64

# Consecutive frames of a chain see each other over a few times their inefficiency; blocks are this many times as long.
_TIMES = 8.0
_MIN_BLOCKS = 6
# Batches whose means tell of a correlation that the autocorrelation at short lags does not see, as of frames that lie sweep by sweep.
_BATCHES = 20
# Their variance is above 1.75 times that of independent samples in 2 % of such sets.
_SEEN = 1.75


@dataclasses.dataclass(frozen=True)
class Correlation:
    """What samples in the order of their chains are worth.

    Example:
        >>> from boltzflow.analysis import correlation
        >>> noise = np.random.default_rng(0).normal(size=4_000)
        >>> smooth = np.convolve(noise, np.ones(20), mode="same")
        >>> correlation.of_series(smooth).n_effective < 1_000
        True

    Attributes:
        n: number of samples.
        n_effective: number of independent samples whose mean is as noisy; at most n.
        blocks: blocks of consecutive samples that a bootstrap draws whole; None where samples count as independent.
    """

    n: int
    n_effective: float
    blocks: int | None

    @property
    def widening(self) -> float:
        """How much wider an interval of so few blocks must be than a bootstrap of them says, by Student's t."""
        from scipy.stats import norm, t

        if self.blocks is None:
            return 1.0
        return float(t.ppf(0.975, self.blocks - 1) / norm.ppf(0.975) * math.sqrt(self.blocks / (self.blocks - 1)))

    @property
    def reported(self) -> float | None:
        """The effective number where it differs from n."""
        return None if self.blocks is None else self.n_effective


def spread(n: int, count: int, *, seed: int = 0) -> Int[np.ndarray, " m"]:
    """Indices of `count` of n frames in rising order, a random one from each of `count` equal parts; all if there are not more.

    Args:
        n: number of frames.
        count: how many to take.
        seed: the same seed takes the same frames.
    """
    if count >= n:
        return np.arange(n)
    edges = np.linspace(0.0, n, count + 1)
    drawn = edges[:-1] + np.random.default_rng(seed).random(count) * np.diff(edges)
    # Parts that are no whole number of frames may share one at their border.
    return np.maximum.accumulate(np.maximum(np.minimum(drawn.astype(np.int64), n - 1), np.ceil(edges[:-1] - 1e-9).astype(np.int64)))


def _autocorrelation(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """Of lags from 0; None for values that are all the same."""
    # Imported where it is used: it is slow to import.
    from arviz_stats.base.array import array_stats

    values = np.asarray(values, np.float64)
    n = values.size
    if n < 4 or not 0.0 < float(np.var(values)) < math.inf:
        return None
    # Over n - t products each, not n: long correlations would seem shorter.
    return np.asarray(array_stats.autocorr(values)) * (n / np.arange(n, 0, -1))


def period(*series: Any) -> int:
    """After how many frames those of the same chain come again, where frames lie sweep by sweep; 1 where there is no sign of it.

    It is where the autocorrelation of one of some quantities (n,) is largest, if that is beyond chance and not at once.
    """
    found = 1
    strongest = 0.0
    for values in series:
        rho = _autocorrelation(values)
        if rho is None or rho.size < 16:
            continue
        rho = rho[1 : rho.size // 3]
        highest = float(rho.max())
        # Of many lags the largest by chance alone is about 4 standard errors.
        if highest * math.sqrt(2.0 / 3.0 * len(values)) > 6.0 and highest > strongest:
            strongest = highest
            found = 1 + int(np.flatnonzero(rho >= 0.9 * highest)[0])
    return found


def chain_order(n: int, chains: int) -> Int[np.ndarray, " n"]:
    """Indices that put frames which lie sweep by sweep over some chains chain by chain."""
    return np.argsort(np.arange(n) % max(1, chains), kind="stable")


def inefficiency(values: Float[np.ndarray, " n"]) -> float:
    """How many correlated values are worth an independent one, 1 or more.

    The larger of the integrated autocorrelation time 1 + 2 sum rho(t), summed up to the first window of five times itself (Sokal, 1996),
    and the variance of the means of 20 batches over what it would be for independent values, where that is beyond chance: frames that lie
    sweep by sweep are correlated at distances that the first does not reach.

    Args:
        values: (n,) in the order of their chain.
    """
    correlation = _autocorrelation(values)
    if correlation is None:
        return 1.0
    values = np.asarray(values, np.float64)
    n = values.size
    times = 1.0 + 2.0 * np.cumsum(correlation[1 : max(2, n // 2)])
    within = np.flatnonzero(np.arange(1, times.size + 1) >= 5.0 * times)
    time = float(times[within[0]] if within.size else times.max())
    # The mean of a correlated series takes some of its variance with it.
    time = max(1.0, time) * (1.0 + min(1.0, 2.0 * max(1.0, time) / n))
    if n >= 4 * _BATCHES:
        means = np.array([batch.mean() for batch in np.array_split(values, _BATCHES)])
        ratio = float(np.var(means, ddof=1) * (n / _BATCHES) / np.var(values))
        if ratio > _SEEN:
            time = max(time, ratio)
    return min(time, float(n))


def of_series(*series: Any, at_most: float | None = None) -> Correlation:
    """What samples are worth by the most correlated of some quantities of theirs.

    Args:
        series: (n,) values each, numbers or booleans, in the order of the chains.
        at_most: what the samples are known to be worth at most, as by the effective sample size of the whole set; None if nothing is.
    """
    n = len(series[0])
    effective = min(n / inefficiency(np.asarray(values, np.float64)) for values in series)
    if at_most is not None and math.isfinite(at_most):
        effective = min(effective, max(1.0, at_most))
    # A time a little above 1 is the noise of its estimate: two standard errors of it (Sokal), for a window of five.
    if effective > n / (1.0 + 2.0 * math.sqrt(2.0 * 11.0 / n)):
        return Correlation(n, float(n), None)
    return Correlation(n, effective, int(np.clip(effective / _TIMES, min(_MIN_BLOCKS, n), min(MAX_BLOCKS, n))))
