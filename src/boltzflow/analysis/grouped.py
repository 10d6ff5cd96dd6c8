"""Figures of weighted samples that depend on one another in groups: the populations of an annealing, the chains of a sampler.

Groups are independent and alike, samples within one are not. So intervals come from the scatter between the groups, by the jackknife that
leaves out one group at a time, with Student's t for as many groups as carry the weight (Efron and Stein, Ann. Statist. 9, 586, 1981).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis.estimate import LEVEL, NONE, Estimate, as_column, bracket
from boltzflow.analysis.weights import normalized, relative
from boltzflow.errors import DataError

LEAST = 4
"""Groups with fewer than this many among them carrying the weight say nothing about the noise."""

Statistic = Callable[[Float[np.ndarray, "*r m"]], Any]


def log_z(log_w: Any, groups: Any) -> Estimate:
    """Log of the mean weight, with its interval.

    Args:
        log_w: (n,) log-weights whose exponentials average to Z in each group.
        groups: (n,) number of the group of each sample; 0 for one that is its own.
    """
    weights, largest = relative(log_w)
    n = weights.size
    if largest == -math.inf:
        return Estimate(-math.inf, -math.inf, math.inf, n, NONE, "none of the samples has weight")
    columns = np.stack([weights, np.ones(n)], axis=1)

    def statistic(sums: Float[np.ndarray, "*r 2"]) -> Any:
        return largest + np.log(sums[..., 0] / sums[..., 1])

    return _interval(columns, weights, groups, statistic)


def expectation(log_w: Any, values: Any, groups: Any) -> Estimate:
    """Self-normalised expectation sum w f / sum w, with its interval and the number of independent samples that it is worth.

    Args:
        log_w: (n,) log-weights.
        values: (n,) values f(x); those of samples without weight do not matter and may be NaN.
        groups: (n,) as in `log_z`.

    Raises:
        DataError: if a sample that has weight has a value that is not finite, or no sample has weight.
    """
    weights = normalized(log_w)
    values = np.where(weights > 0, as_column(values, "values", n=weights.size), 0.0)
    if not np.isfinite(values).all():
        raise DataError(f"the observable is not finite on {int((~np.isfinite(values)).sum())} samples that have weight; mask or mend it.")
    value = float(np.sum(weights * values))
    if np.ptp(values[weights > 0]) == 0.0:
        return Estimate(value, value, value, weights.size)
    columns = np.stack([weights, weights * (values - value)], axis=1)
    found = _interval(columns, weights, groups, lambda sums: value + sums[..., 1] / sums[..., 0])
    worth, _ = _worth(columns, weights, values - value, groups)
    return Estimate(found.value, found.low, found.high, found.n, found.kind, found.note, worth if found.kind != NONE else None)


def difference(log_w: Any, in_a: Any, in_b: Any, groups: Any) -> Estimate:
    """Free energy of region A above that of region B in kT, with its interval; see `free_energy.difference`.

    Args:
        log_w: (n,) log-weights.
        in_a: (n,) whether each sample lies in A.
        in_b: (n,) whether each sample lies in B.
        groups: (n,) as in `log_z`.

    Raises:
        DataError: if a mask is not boolean, or neither region holds weight.
    """
    weights = normalized(log_w)
    masks = [np.asarray(in_a), np.asarray(in_b)]
    if any(mask.dtype != bool or mask.shape != weights.shape for mask in masks):
        raise DataError(f"regions must be boolean arrays of shape ({weights.size},).")
    columns = np.stack([np.where(mask, weights, 0.0) for mask in masks], axis=1)
    if not columns.any():
        raise DataError("neither region A nor region B holds a sample that has weight; widen the regions or draw more samples.")

    def statistic(sums: Float[np.ndarray, "*r 2"]) -> Any:
        with np.errstate(divide="ignore"):
            return np.log(sums[..., 1]) - np.log(sums[..., 0])

    rarer = columns[:, int(np.argmin(columns.sum(axis=0)))]
    return _interval(columns, rarer, groups, statistic)


def effective(log_w: Any, values: Any, groups: Any) -> Estimate:
    """Share of independent samples of the target that give the mean of a quantity with the noise that it has here.

    The variance of the quantity over the squared error of its mean, from the scatter between the groups; at most Kish's effective sample
    size of the weights, for correlation never adds information here. The interval is that of a variance of as many groups (chi-squared).

    Args:
        log_w: (n,) log-weights.
        values: (n,) the quantity, such as the energy.
        groups: (n,) as in `log_z`.
    """
    weights, largest = relative(log_w)
    n = weights.size
    if largest == -math.inf:
        return Estimate(0.0, 0.0, 1.0, n, NONE, "none of the samples has weight")
    kish = float(weights.mean() ** 2 / np.mean(weights**2))
    values = np.where(weights > 0, np.asarray(values, np.float64), 0.0)
    centred = values - float(np.sum(weights * values) / weights.sum())
    columns = np.stack([weights, weights * centred], axis=1)
    worth, carrying = _worth(columns, weights, centred, groups)
    if carrying < LEAST:
        return Estimate(min(kish, 1.0), 0.0, kish, n, NONE, _too_few(carrying))
    from scipy.stats import chi2

    low, high = (worth / n * float(chi2.ppf(level, carrying - 1)) / (carrying - 1) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    value = min(worth / n, kish)
    return bracket(value, min(low, kish), min(max(high, value), kish), n)


def carrying(weights: Float[np.ndarray, " n"], groups: Any) -> float:
    """How many groups carry the weight, Kish's number of them."""
    sums = _sums(weights[:, None], groups)[:, 0]
    return float(sums.sum() ** 2 / np.sum(sums**2)) if sums.any() else 0.0


def _worth(columns: Float[np.ndarray, "n 2"], weights: Float[np.ndarray, " n"], centred: Float[np.ndarray, " n"], groups: Any) -> tuple:
    """Number of independent samples that the mean of centred values is worth, and the number of groups that carry the weight."""
    many = carrying(weights, groups)
    sums = _sums(columns, groups)
    count = len(sums)
    error = math.sqrt(np.sum(sums[:, 1] ** 2) * count / max(count - 1, 1)) / sums[:, 0].sum()
    variance = float(np.sum(weights * centred**2) / weights.sum())
    return (min(float(weights.size), variance / error**2) if error > 0 else float(weights.size)), many


def _interval(columns: Float[np.ndarray, "n m"], weights: Float[np.ndarray, " n"], groups: Any, statistic: Statistic) -> Estimate:
    """The statistic of the column sums, with the interval of the jackknife over groups."""
    from scipy.stats import t

    n = len(columns)
    sums = _sums(columns, groups)
    total = sums.sum(axis=0)
    value = float(statistic(total))
    many = carrying(weights, groups)
    if many < LEAST:
        return Estimate(value, -math.inf, math.inf, n, NONE, _too_few(many))
    without = statistic(total - sums)
    count = len(sums)
    error = math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))
    if not math.isfinite(error) or not math.isfinite(value):
        return Estimate(value, -math.inf, math.inf, n, NONE, _too_few(many))
    half = float(t.ppf((1 + LEVEL) / 2, many - 1.0)) * error
    return bracket(value, value - half, value + half, n)


def _sums(columns: Float[np.ndarray, "n m"], groups: Any) -> Float[np.ndarray, "g m"]:
    """Sums over each group; a sample of group 0 is one of its own."""
    groups = np.asarray(groups)
    _, place = np.unique(np.where(groups == 0, -1 - np.arange(groups.size), groups), return_inverse=True)
    sums = np.zeros((int(place.max()) + 1, columns.shape[1]))
    np.add.at(sums, place, columns)
    return sums


def numbers(groups: Any) -> Int[np.ndarray, " n"]:
    """The groups numbered from 0, in the order in which they first occur."""
    _, first, place = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]


def _too_few(many: float) -> str:
    return f"{many:.2g} of the groups of samples carry the weight, which is too few to judge by"
