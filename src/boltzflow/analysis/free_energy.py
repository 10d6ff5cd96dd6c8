"""Free-energy differences and profiles from weighted samples, in units of kT."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from boltzflow.analysis import tails
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.estimate import AT_LEAST, AT_MOST, LEVEL, NONE, REPLICAS, Estimate, as_column, bracket, percentile_interval
from boltzflow.analysis.metrics import bin_matrix
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError


@dataclasses.dataclass(frozen=True)
class Profile:
    """Free energy along a coordinate, -ln of its density, zero at its minimum.

    Example:
        >>> profile = bf.analysis.free_energy.profile(np.zeros(1_000), np.random.default_rng(0).normal(size=1_000), bins=10)
        >>> profile.centers.shape, float(profile.free_energy.min())
        ((10,), 0.0)

    Attributes:
        edges: (b + 1,) edges of the bins, in units of the coordinate.
        free_energy: (b,) in kT; inf in bins without weight.
        low: (b,) lower end of the 95 % bootstrap band; NaN in bins without weight, -inf where the weights bear no band.
        high: (b,) upper end of the band; inf in bins that a bootstrap replica leaves empty, and where the weights bear no band.
        n: samples that the profile rests on.
        note: why there is no band, in words; empty where there is one.
    """

    edges: Float[np.ndarray, " b_plus_1"]
    free_energy: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    n: int
    note: str = ""

    @property
    def centers(self) -> Float[np.ndarray, " b"]:
        """(b,) middles of the bins."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def difference(log_w: Any, in_a: Any, in_b: Any, *, seed: int = 0, blocks: int | None = None) -> Estimate:
    """Free energy of region A above that of region B in kT, -ln(sum w 1_A / sum w 1_B).

    Infinite where one region holds no weight: the samples then only say that the difference is large. The weights of each region have a
    tail of their own (`tails`); where that of one region is too heavy, its weight may be larger than it seems and the difference is bounded
    on one side only, where both are, on none. Where few samples lie in a region, the interval allows for one more.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        in_a: (n,) whether each sample lies in A.
        in_b: (n,) whether each sample lies in B.
        seed: seed of the bootstrap.
        blocks: number of blocks of consecutive samples that the bootstrap draws whole, for frames of chains, which are correlated;
            None: independent samples.

    Raises:
        DataError: if the shapes disagree, the masks are not boolean, or neither region holds weight.
    """
    weights = normalized(log_w)
    n = weights.size
    masks = [_mask(mask, n, name) for mask, name in ((in_a, "A"), (in_b, "B"))]
    held = [np.where(mask, weights, 0.0) for mask in masks]
    if not any(part.any() for part in held):
        raise DataError("neither region A nor region B holds a sample that has weight; widen the regions or draw more samples.")
    with np.errstate(divide="ignore"):
        value = float(np.log(held[1].sum()) - np.log(held[0].sum()))
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    grouping = None if blocks is None else Correlation(n, float(blocks), blocks)
    whole = tails.fit(weights / weights.max())
    least, most, unbounded = [], [], []
    for part, name in zip(held, "AB", strict=True):
        low, high, reason = _log_mass(part, weights, whole, seed, grouping)
        least.append(low)
        most.append(high)
        unbounded += [f"in region {name} {reason}"] if reason else []
    # Quantiles of the difference and not of each part: both regions share the replicas.
    low = percentile_interval(least[1] - most[0], n)[0]
    high = percentile_interval(most[1] - least[0], n)[1]
    widening = 1.0 if grouping is None else grouping.widening
    if math.isfinite(value):
        low, high = value + widening * (min(low, value) - value), value + widening * (max(high, value) - value)
    low, high = (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)
    if math.isinf(low) and math.isinf(high):
        return Estimate(value, -math.inf, math.inf, n, NONE, "; ".join(unbounded))
    if math.isinf(low) or math.isinf(high):
        note = "; ".join(unbounded) or "a region may hold next to nothing"
        return Estimate(value, low, high, n, AT_MOST if math.isinf(low) else AT_LEAST, note)
    return bracket(value, low, high, n)


def _log_mass(
    part: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], whole: tails.Tail, seed: int, grouping: Correlation | None
) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"], str]:
    """Log of the weight in a region in each replica, at least and at most, and why there is no upper limit, if there is none."""
    inside = part > 0.0
    n, count = part.size, int(inside.sum())
    # One more sample of the usual weight, as in the exact interval of a number of counts.
    usual = float(part[inside].mean()) if count else float(weights[weights > 0].mean())
    another = np.random.default_rng([seed, 2]).exponential(usual / n, REPLICAS)
    if grouping is not None:
        another *= n / grouping.n_effective
    values, reason, lognormal = part, "", None
    tail, scale = whole, float(weights.max())
    if count and whole.state != tails.EQUAL:
        # Rare regions have weights of their own: those of all samples say nothing about their tail.
        own = tails.fit(part[inside] / part.max())
        if own.state == tails.FITTED:
            assert own.inside is not None
            place = np.zeros(n, bool)
            place[np.flatnonzero(inside)] = own.inside
            tail, scale = dataclasses.replace(own, n=n, inside=place), float(part.max())
        elif own.state == tails.EQUAL:
            tail = own
        if own.state != tails.EQUAL and own.size < tails.MIN_TAIL:
            lognormal = _log_normal_means(np.log(part[inside]), seed)
        if lognormal is None and own.state not in (tails.FITTED, tails.EQUAL):
            reason = f"{count} samples are too few to tell their weights by" if own.state == tails.FEW else own.reason()
        elif own.state == tails.FITTED and own.size >= tails.MIN_TAIL and not own.bounded_moments:
            reason = own.reason()
    elif not count and whole.state != tails.EQUAL:
        reason = "no sample has weight"
    if tail is whole:
        values = weights
    plain, beyond = (means[:, 0] for means in tails.replicated_sums(part[:, None], values / scale, tail, seed=seed, grouping=grouping))
    least, most = np.minimum(plain, beyond), np.maximum(plain, beyond)
    if lognormal is not None:
        # The same share of the samples, with a mean weight that log-normal weights may have.
        shares = tails.replicated_sums(inside[:, None].astype(float), values / scale, tails.Tail(tails.EQUAL, n), seed=seed)[0][:, 0]
        least, most = np.minimum(least, shares * lognormal), np.maximum(most, shares * lognormal)
    most = np.full(REPLICAS, math.inf) if reason else most + another
    with np.errstate(divide="ignore"):
        return np.log(least), np.log(np.where(most > 1e90, math.inf, most)), reason


def _log_normal_means(log_w: Float[np.ndarray, " m"], seed: int) -> Float[np.ndarray, " R"] | None:
    """Means that a few weights may have by the posterior of a log-normal distribution; None for fewer than three."""
    m = log_w.size
    if m < 3:
        return None
    rng = np.random.default_rng([seed, 3])
    variance = (m - 1) * float(np.var(log_w, ddof=1)) / rng.chisquare(m - 1, REPLICAS)
    location = float(log_w.mean()) + np.sqrt(variance / m) * rng.standard_normal(REPLICAS)
    with np.errstate(over="ignore"):
        return np.exp(np.minimum(location + 0.5 * variance, 690.0))


def _mask(mask: Any, n: int, name: str) -> Bool[np.ndarray, " n"]:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (n,):
        raise DataError(f"region {name} must be a boolean array of shape ({n},), but is {mask.dtype} of shape {mask.shape}.")
    return mask


def profile(log_w: Any, values: Any, bins: Any = 50, *, seed: int = 0, blocks: int | None = None) -> Profile:
    """Free-energy profile along a coordinate, with bootstrap bands.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        values: (n,) the coordinate, in its own units. Values of samples without weight do not matter and may be NaN.
        bins: edges (b + 1,), or their number over the range of the samples that have weight.
        seed: seed of the bootstrap.
        blocks: as for `difference`.

    Raises:
        DataError: if the shapes disagree or no sample with weight lies within the edges.
    """
    weights = normalized(log_w)
    values = as_column(values, "values", n=weights.size)
    values = np.where(weights > 0, values, np.nan)
    edges = np.histogram_bin_edges(values[np.isfinite(values)], bins)
    columns = bin_matrix(values[:, None], edges, weights)
    n = weights.size
    mass = np.asarray(columns.sum(axis=0)).ravel()
    if not mass.any():
        raise DataError(f"no sample with weight lies between {edges[0]:g} and {edges[-1]:g}; choose other bins.")
    with np.errstate(divide="ignore"):
        free_energy = -np.log(mass / np.diff(edges))
    shift = free_energy.min()
    filled = np.isfinite(free_energy)
    tail = tails.fit(weights / weights.max())
    if not tail.bounded_moments:
        nothing = np.where(filled, math.inf, math.nan)
        return Profile(edges, free_energy - shift, -nothing, nothing, n, tail.reason())
    grouping = None if blocks is None else Correlation(n, float(blocks), blocks)
    # One more sample of a bin's usual weight, as in the exact interval of a number of counts.
    counts = np.asarray((columns > 0).sum(axis=0)).ravel()
    usual = np.where(counts > 0, mass / np.maximum(counts, 1), weights[weights > 0].mean()) * (1.0 if blocks is None else n / blocks)
    another = np.random.default_rng([seed, 2]).exponential(1.0, (REPLICAS, 1)) * usual
    ends = []
    for replicated in tails.replicated_sums(columns, weights / weights.max(), tail, seed=seed, grouping=grouping):
        # Each replica has its own constant. Aligning the total weight leaves the band to show shape and noise, not a common shift;
        # aligning the bin of the minimum is what the zero of the profile does, whose noise all other bins share.
        for more in (0.0, another):
            with np.errstate(divide="ignore", invalid="ignore"):
                part = replicated / replicated.sum(axis=1, keepdims=True) * mass.sum() + more
                profiles = -np.log(part / np.diff(edges))
            for aligned in (profiles, profiles - profiles[:, [int(np.argmin(free_energy))]] + shift):
                aligned = aligned[~np.isnan(aligned).any(axis=1)]
                ends.append(np.quantile(aligned, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="inverted_cdf"))
    widening = 1.0 if grouping is None else grouping.widening
    with np.errstate(invalid="ignore"):
        low = free_energy + widening * (np.minimum(np.min([end[0] for end in ends], axis=0), free_energy) - free_energy)
        high = free_energy + widening * (np.maximum(np.max([end[1] for end in ends], axis=0), free_energy) - free_energy)
    return Profile(edges, free_energy - shift, np.where(filled, low, math.nan) - shift, np.where(filled, high, math.inf) - shift, n)
